"""YAML files read safely: plain data only, and every failure in one line."""

from pathlib import Path
from typing import Any

import yaml

from hrrsi.errors import HrrsiError


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Tags that build objects are refused, never run.

    Raises:
        HrrsiError: The file is missing, not readable, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise HrrsiError("no such file", where=path, fix="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise HrrsiError(f"cannot be read ({error})", where=path) from error
    try:
        data = yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        raise HrrsiError(
            f"holds a tag that is not plain data ({error.problem})",
            where=_position(path, error),
            fix="use only mappings, lists, text and numbers",
        ) from error
    except yaml.MarkedYAMLError as error:
        raise HrrsiError(
            f"is not valid YAML ({error.problem})", where=_position(path, error), fix="correct it"
        ) from error
    except yaml.YAMLError as error:
        raise HrrsiError("is not valid YAML", where=path, fix="correct it") from error
    if not isinstance(data, dict):
        raise HrrsiError("is not a mapping of names to values", where=path, fix="correct it")
    return data


def _position(path: Path, error: yaml.MarkedYAMLError) -> str:
    return f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)


def dump_yaml(data: dict[str, Any]) -> str:
    """Return data as YAML text, in the order given."""
    text: str = yaml.safe_dump(
        data, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100
    )
    return text
