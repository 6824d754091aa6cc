"""What a run was started with, so that its folder alone is enough to repeat it.

``config.yaml`` holds every option; ``environment.yaml`` holds what the options don't say:

- ``dataset``: the digest of what is trained and validated on (`hrrsi.training.run`; of a
  pre-training, `hrrsi.pretraining.images.image_digest`), and of each dataset where there are
  several;
- ``encoder_weights``, ``init``: the digests of the files that the network started from;
- ``teachers``: those of the networks that it learns from, where there are any;
- ``starts``: one entry each time the run was started or resumed, with the time, the command line,
  the version of hrrsi (and the commit, where it is a checkout), those of Python and of the
  libraries that numbers depend on, the hardware, and the threads.

The machine's name and its user are left out, though paths in the command line may tell.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hrrsi import __version__
from hrrsi.errors import InputError
from hrrsi.files import content_digest, dump_yaml, read_yaml, replacing
from hrrsi.hardware import available_cores, processor_name
from hrrsi.runs.options import ENVIRONMENT, RunOptions, folders_text

_LIBRARIES = (
    *("torch", "torchvision", "timm", "lightning", "numpy", "imaug", "opencv-python-headless"),
    *("rasterio", "pillow", "nvidia-dali-cuda130"),
)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


class _Source(BaseModel):
    """A file that was read for a run."""

    name: str
    sha256: str


class _Start(BaseModel):
    """What the run was started or resumed with."""

    model_config = ConfigDict(extra="allow")
    time: str | None = None
    hrrsi: dict[str, str] = {}
    versions: dict[str, str] = {}
    hardware: dict[str, Any] = {}


class _Environment(BaseModel):
    """The content of ``environment.yaml``."""

    model_config = ConfigDict(extra="allow")
    dataset: dict[str, Any]
    teachers: list[_Source] = []
    starts: list[_Start] = []


def read_environment(folder: Path) -> dict[str, Any]:
    """Return what ``environment.yaml`` of a run's folder holds.

    Raises:
        InputError: There is none, or it has another shape.
    """
    path = folder / ENVIRONMENT
    content = read_yaml(path)
    try:
        _Environment.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{place}: {first['msg']}", where=path, fix="copy the run again, or start another one"
        ) from error
    return content


def run_environment(
    options: RunOptions,
    data: dict[str, Any],
    sources: dict[str, Any],
    *,
    resume: bool,
    teachers: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return what ``environment.yaml`` is to hold once a run starts or goes on.

    Args:
        options: Options of the run.
        data: What it is trained on; its digest as ``sha256``.
        sources: What the network starts from.
        resume: Whether the run goes on: its file is added to.
        teachers: The files of networks that it learns from; name, and digest as ``sha256``.

    Raises:
        InputError: The run was started with other data or teachers.
    """
    path = options.run_folder / ENVIRONMENT
    content = {"dataset": data, **sources}
    if teachers:
        content["teachers"] = list(teachers)
    if resume and path.is_file():
        content = read_environment(options.run_folder)
        _check_same_data(content, data["sha256"], options)
        _check_same_teachers(content, teachers, options)
    content["starts"] = [*content.get("starts", []), {"resumed": resume, **environment()}]
    return content


def changed_data_text(first: str | Path, number: int) -> str:
    """Return the warning of data that were changed while a run read them.

    Args:
        first: A file that was changed.
        number: How many were.
    """
    more = f", as were {number - 1:,} more" if number > 1 else ""
    return (
        f"{first} was changed while the run read it{more}: what {ENVIRONMENT} says of the data is "
        "not all that was trained on"
    )


def file_source(path: Path) -> dict[str, Any]:
    """Return name and SHA-256 of a file that a run reads weights from."""
    return {"name": path.name, "sha256": content_digest(path)}


def write_environment(options: RunOptions, content: dict[str, Any]) -> None:
    """Write ``environment.yaml`` into a run's folder."""
    with replacing(options.run_folder / ENVIRONMENT) as temporary:
        temporary.write_text(dump_yaml(content), encoding="utf-8")


def environment() -> dict[str, Any]:
    """Return the time, the command line, versions, hardware and threads of this process."""
    import torch  # takes seconds, and `hrrsi.train` names this module without it

    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    versions["cuda"] = str(torch.version.cuda) if torch.cuda.is_available() else "none"
    commit = _commit()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "hrrsi": {"version": __version__, **({"commit": commit} if commit else {})},
        "versions": versions,
        "system": f"{platform.system()} {platform.release()}",
        "hardware": hardware(),
        "threads": {
            "torch": torch.get_num_threads(),
            **{key: os.environ[key] for key in _THREAD_VARIABLES if key in os.environ},
        },
    }


def hardware() -> dict[str, Any]:
    """Return the processor's model, its cores that this process may use, memory, and GPUs."""
    import torch

    machine: dict[str, Any] = {
        "cpu": processor_name(),
        "cores": available_cores(),
    }
    if hasattr(os, "sysconf"):  # not on Windows
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        machine["memory_gb"] = round(size / 1e9, 1)
    if torch.cuda.is_available():
        numbers = range(torch.cuda.device_count())
        machine["gpus"] = [torch.cuda.get_device_name(number) for number in numbers]
    return machine


def _check_same_data(content: dict[str, Any], digest: str, options: RunOptions) -> None:
    before = content["dataset"]
    if "sha256" not in before:
        raise InputError(
            "does not say which data the run was started with",
            where=options.run_folder / ENVIRONMENT,
            fix="start the run again with `overwrite=True`",
        )
    if before["sha256"] != digest:
        raise InputError(
            f"its content is not what the run in {options.run_folder} was started with",
            where=folders_text(options.data),
            fix="put the old data back, or start another run with `overwrite=True` or another "
            "`out`",
        )


def _check_same_teachers(
    content: dict[str, Any], teachers: Sequence[Mapping[str, Any]], options: RunOptions
) -> None:
    before = content.get("teachers", [])
    if [t["sha256"] for t in before] != [t["sha256"] for t in teachers]:
        names = ", ".join(f"{t['name']} ({t['sha256'][:8]})" for t in before) or "no teacher"
        now = ", ".join(f"{t['name']} ({t['sha256'][:8]})" for t in teachers) or "none"
        raise InputError(
            f"was started with {names}, not {now} (SHA-256)",
            where=options.run_folder,
            fix="give the same `teachers`, in the same order, or start another run with another "
            "`out`",
        )


def _commit() -> str | None:
    """Return the commit of the checkout that hrrsi runs from, with a plus where it was changed.

    None where it is installed: a checkout around that is somebody else's.
    """
    package = Path(__file__).parent.parent
    run: Callable[..., Any] = subprocess.run
    git = ["git", "-C", str(package)]
    quietly = {"capture_output": True, "text": True, "check": True, "timeout": 10}
    try:
        run([*git, "ls-files", "--error-unmatch", "__init__.py"], **quietly)
        commit = run([*git, "rev-parse", "HEAD"], **quietly).stdout.strip()
        changed = run([*git, "status", "--porcelain", "--untracked-files=no", "."], **quietly)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+" if changed.stdout.strip() else str(commit)
