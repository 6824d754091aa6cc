"""A small tiled dataset of real patches, as training tests need it."""

from pathlib import Path

import yaml
from samples.repository import REPOSITORY
from typer.testing import CliRunner

from hrrsi.cli import app

EXAMPLES = REPOSITORY / "examples" / "dubai"


def save_made_dataset(folder: Path, *, train: int = 16, val: int = 7) -> Path:
    """Tile the examples into patches of 64 px, and keep some of each split, spread over it."""
    result = CliRunner().invoke(
        app,
        f"tile {EXAMPLES} --scheme dubai --out {folder} --size 64 --workers 1 --quiet".split(),
    )
    assert result.exit_code == 0, result.output
    content = yaml.safe_load((folder / "dataset.yaml").read_text())
    for split, keep in (("train", train), ("val", val)):
        images = sorted((folder / split / "image").iterdir())
        kept = images[:: len(images) // keep][:keep]
        for image in set(images) - set(kept):
            image.unlink()
            (folder / split / "label" / image.name).unlink()
        content["splits"][split]["patches"] = len(kept)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content))
    return folder
