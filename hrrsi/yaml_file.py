"""YAML files read safely: plain data only, and every failure in one line."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from hrrsi.errors import InputError, MissingInputError

_MERGE = "tag:yaml.org,2002:merge"  # `<<`, which may come several times


class _Loader(yaml.SafeLoader):
    """YAML's own, which of a name that comes twice would take the last value without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} comes twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Tags that build objects are refused, never run.

    Raises:
        InputError: The file is missing, not readable, not YAML, or not a mapping, or a name comes
            twice in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingInputError("no such file", where=path, fix="check the path") from None
    except IsADirectoryError:
        raise InputError("is a folder", where=path, fix="name a YAML file") from None
    except UnicodeDecodeError:
        raise InputError("is not a text file", where=path, fix="name a YAML file") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    try:
        data = yaml.load(text, _Loader)
    except yaml.constructor.ConstructorError as error:
        raise InputError(
            f"holds a tag that is not plain data ({error.problem})",
            where=_position(path, error),
            fix="use only mappings, lists, text and numbers",
        ) from error
    except yaml.MarkedYAMLError as error:
        raise InputError(
            f"is not valid YAML ({error.problem})", where=_position(path, error), fix="correct it"
        ) from error
    except yaml.YAMLError as error:
        raise InputError("is not valid YAML", where=path, fix="correct it") from error
    if not isinstance(data, dict):
        raise InputError("is not a mapping of names to values", where=path, fix="correct it")
    return data


def _position(path: Path, error: yaml.MarkedYAMLError) -> str:
    return f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)


def dump_yaml(data: dict[str, Any]) -> str:
    """Return data as YAML text, in the order given."""
    text: str = yaml.safe_dump(
        data, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100
    )
    return text
