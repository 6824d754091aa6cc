"""What a training run was started with: its dataset and weights, by their digests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from hrrsi.files import content_digest
from hrrsi.networks.names import parsed_model
from hrrsi.progress import progress
from hrrsi.runs.environment import run_environment
from hrrsi.tiling.dataset import DESCRIPTION, TiledDataset
from hrrsi.training.options import TrainOptions

_SPLITS = ("train", "val")  # what a run looks at


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
        InputError: The run was started with other data, or a file can't be read.
    """
    patches = sum(len(dataset.patches(split)) for split in _present_splits(dataset))
    data = {"sha256": dataset_digest(dataset, quiet=quiet), "patches": patches}
    sources = {} if resume else _sources(options)  # nothing is read of them again
    return run_environment(options, data, sources, resume=resume)


def dataset_digest(dataset: TiledDataset, *, quiet: bool = False) -> str:
    """Return the SHA-256 of what a run reads of a dataset, in hexadecimal digits.

    It covers ``dataset.yaml`` and, of each patch to train or validate on, the names, sizes and
    contents of its two files; not where the dataset lies, nor what viewers leave beside patches.

    Raises:
        InputError: A file can't be read.
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


def _present_splits(dataset: TiledDataset) -> list[str]:
    return [split for split in _SPLITS if split in dataset.description.splits]


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
