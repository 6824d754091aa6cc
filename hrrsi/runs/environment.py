"""What a run was started with, so that its folder alone is enough to repeat it.

``config.yaml`` holds every option; ``environment.yaml`` holds what the options don't say:

- ``dataset``: the digest of what is trained and validated on (`dataset_digest`; of a
  pre-training, `hrrsi.pretraining.image_folders.image_digest`);
- ``encoder_weights``, ``init``: the digests of the files that the network started from;
- ``starts``: one entry each time the run was started or resumed, with the time, the command line,
  the version of hrrsi (and the commit, where it is a checkout), those of Python and of the
  libraries that numbers depend on, the hardware, and the threads.

The machine's name and its user are left out, though paths in the command line may tell.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from hrrsi import __version__
from hrrsi.errors import HrrsiError
from hrrsi.files import content_digest, replacing
from hrrsi.hardware import available_cores
from hrrsi.networks.names import parsed_model
from hrrsi.progress import progress
from hrrsi.runs.options import ENVIRONMENT, RunOptions
from hrrsi.tiling.dataset import DESCRIPTION, TiledDataset
from hrrsi.training.options import TrainOptions
from hrrsi.yaml_file import dump_yaml, read_yaml

_LIBRARIES = (
    *("torch", "torchvision", "timm", "lightning", "numpy", "imaug", "opencv-python-headless"),
    *("rasterio", "pillow", "nvidia-dali-cuda130"),
)
_SPLITS = ("train", "val")  # what a run looks at
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def training_environment(
    options: TrainOptions, dataset: TiledDataset, *, resume: bool, quiet: bool = False
) -> dict[str, Any]:
    """Return what ``environment.yaml`` is to hold once a training run starts or goes on.

    Args:
        options: Options of the run.
        dataset: The dataset that it is trained on; all of its files are read.
        resume: Whether the run goes on.
        quiet: No progress bar.

    Raises:
        HrrsiError: The run was started with other data, or a file can't be read.
    """
    patches = sum(len(dataset.patches(split)) for split in _present_splits(dataset))
    data = {"sha256": dataset_digest(dataset, quiet=quiet), "patches": patches}
    sources = {} if resume else _sources(options)  # nothing is read of them again
    return run_environment(options, data, sources, resume=resume)


def run_environment(
    options: RunOptions, data: dict[str, Any], sources: dict[str, Any], *, resume: bool
) -> dict[str, Any]:
    """Return what ``environment.yaml`` is to hold once a run starts or goes on.

    Args:
        options: Options of the run.
        data: What it is trained on; its digest as ``sha256``.
        sources: What the network starts from.
        resume: Whether the run goes on: its file is added to.

    Raises:
        HrrsiError: The run was started with other data.
    """
    path = options.run_folder / ENVIRONMENT
    content = {"dataset": data, **sources}
    if resume and path.is_file():
        content = read_yaml(path)
        _check_same_data(content, data["sha256"], options)
    content["starts"] = [*content.get("starts", []), {"resumed": resume, **environment()}]
    return content


def write_environment(options: RunOptions, content: dict[str, Any]) -> None:
    """Write ``environment.yaml`` into a run's folder."""
    with replacing(options.run_folder / ENVIRONMENT) as temporary:
        temporary.write_text(dump_yaml(content), encoding="utf-8")


def dataset_digest(dataset: TiledDataset, *, quiet: bool = False) -> str:
    """Return the SHA-256 of what a run reads of a dataset, in hexadecimal digits.

    It covers ``dataset.yaml`` and, of each patch to train or validate on, the names, sizes and
    contents of its two files; not where the dataset lies, nor what viewers leave beside patches.

    Raises:
        HrrsiError: A file can't be read.
    """
    splits = [(split, dataset.patches(split)) for split in _present_splits(dataset)]
    files = [path for _, patches in splits for p in patches for path in (p.image, p.label)]
    whole = hashlib.sha256()
    with progress("reading the dataset", len(files) + 1, " files", enabled=not quiet) as bar:
        for path in [dataset.folder / DESCRIPTION, *files]:
            name = path.relative_to(dataset.folder).as_posix()
            whole.update(f"{name}\0{path.stat().st_size}\0{content_digest(path)}\n".encode())
            bar.update()
    return whole.hexdigest()


def environment() -> dict[str, Any]:
    """Return the time, the command line, versions, hardware and threads of this process."""
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
    found: dict[str, Any] = {
        "cpu": _processor(),
        "cores": available_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
    }
    if torch.cuda.is_available():
        numbers = range(torch.cuda.device_count())
        found["gpus"] = [torch.cuda.get_device_name(number) for number in numbers]
    return found


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _present_splits(dataset: TiledDataset) -> list[str]:
    return [split for split in _SPLITS if split in dataset.description.splits]


def _check_same_data(content: dict[str, Any], digest: str, options: RunOptions) -> None:
    before = content.get("dataset")
    if not isinstance(before, dict) or "sha256" not in before:
        raise HrrsiError(
            "does not say which data the run was started with",
            where=options.run_folder / ENVIRONMENT,
            fix="start the run again with --overwrite",
        )
    if before["sha256"] != digest:
        raise HrrsiError(
            f"its content is not what the run in {options.run_folder} was started with",
            where=options.data,
            fix="put the old data back, or start another run with --overwrite or another --out",
        )


def _sources(options: TrainOptions) -> dict[str, Any]:
    """Return what the network starts from: names, and digests of the files."""
    if options.init is not None:
        return {"init": _source(options.init)}
    source = options.encoder_weights
    if source == "none":
        return {"encoder_weights": {"name": source}}
    if source != "imagenet":
        return {"encoder_weights": _source(Path(source))}
    return {
        "encoder_weights": {"name": source, **_hub_weights(parsed_model(options.model).encoder)}
    }


def _source(path: Path) -> dict[str, Any]:
    return {"name": path.name, "sha256": content_digest(path)}


def _hub_weights(encoder: str) -> dict[str, Any]:
    """Return where timm's weights of an encoder come from, and the digest of the cached file."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    described = timm.get_pretrained_cfg(encoder) if timm.is_model(encoder) else None
    repository = described and described.hf_hub_id
    if not repository:
        return {"url": str(described.url)} if described and described.url else {}
    found: dict[str, Any] = {"repository": str(repository)}
    for name in (constants.SAFETENSORS_SINGLE_FILE, "pytorch_model.bin"):
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return {**found, "revision": Path(cached).parent.name, **_source(Path(cached))}
    return found


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
