"""A small tiled dataset of real patches, as training tests need it."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from samples.repository import REPOSITORY
from typer.testing import CliRunner

from hrrsi.cli import app

EXAMPLES = REPOSITORY / "examples" / "dubai"


def save_made_dataset(folder: Path, *, train: int = 16, val: int = 7) -> Path:
    """Tile the examples into patches of 64 px, and keep some of each split, spread over it."""
    whole = _tiled_examples()
    content = yaml.safe_load((whole / "dataset.yaml").read_text())
    for split, keep in (("train", train), ("val", val)):
        images = sorted((whole / split / "image").iterdir())
        kept = images[:: len(images) // keep][:keep]
        for part in ("image", "label"):
            (folder / split / part).mkdir(parents=True)
            for image in kept:
                shutil.copy(whole / split / part / image.name, folder / split / part)
        content["splits"][split]["patches"] = len(kept)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content))
    return folder


def with_partial_validation(description: dict[str, Any]) -> dict[str, Any]:
    """What a `dataset.yaml` says, as if all its validation labels were of "no building"."""
    classes, splits = description["classes"], description["splits"]
    partial = {"name": "no building", "colour": [9, 9, 9], "classes": classes[1:]}
    pixels = sum(splits["val"]["class_pixels"])
    val = splits["val"] | {"class_pixels": [0] * len(classes), "partial_pixels": [pixels]}
    train = splits["train"] | {"partial_pixels": [0]}
    return description | {"partial": [partial], "splits": {"train": train, "val": val}}


@functools.cache
def _tiled_examples() -> Path:
    """Return the folder of all patches of the examples, tiled once for all tests of a process."""
    temporary = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    folder = temporary / "dubai64"
    result = CliRunner().invoke(
        app,
        f"tile {EXAMPLES} --scheme dubai --out {folder} --size 64 --workers 1 --quiet".split(),
    )
    assert result.exit_code == 0, result.output
    return folder
