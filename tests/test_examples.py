"""The imagery that ships with the repository."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrrsi.labels.scheme import load_scheme, match_scene, scenes_matching
from hrrsi.scenes.scene import open_scene


def rgb(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.slow
@pytest.mark.long
def test_crops_pair_up_and_show_every_class_in_every_split(examples: Path) -> None:
    scheme = load_scheme("dubai")
    folder = examples / "dubai"
    masks = {}
    for path in sorted(folder.rglob("*.png")):
        name = match_scene(scheme, scheme.labels, path.relative_to(folder).as_posix())
        assert name is not None
        masks[name] = rgb(path)
        image = folder / path.parent.parent.name / "images" / f"{path.stem}.jpg"
        assert rgb(image).shape == masks[name].shape == (256, 320, 3)
    assert len(masks) == len(list(folder.rglob("*.jpg"))) == 10
    scheme_colours = {*scheme.colours, *(c.colour for c in scheme.ignored)}
    for part in ("train", "val", "test"):
        names = scenes_matching(masks, getattr(scheme.splits["standard"], part))
        assert len(names) >= 2
        pixels = np.concatenate([masks[name].reshape(-1, 3) for name in names])
        colours, counts = np.unique(pixels, axis=0, return_counts=True)
        shares = {tuple(map(int, c)): n / len(pixels) for c, n in zip(colours, counts, strict=True)}
        assert set(shares) <= scheme_colours
        assert all(shares[colour] > 0.02 for colour in scheme.colours)


def test_masks_are_palettes_where_the_published_ones_are(examples: Path) -> None:
    for path in (examples / "dubai").rglob("*.png"):
        with Image.open(path) as image:
            assert image.mode == ("P" if "tile4" in path.parts else "RGB")


def test_mosaic_is_a_plain_scene(examples: Path) -> None:
    with open_scene(examples / "dubai_tile1.tif") as scene:
        assert (scene.height, scene.width, scene.dtype) == (1931, 2391, "uint8")
        assert scene.resolution is None
        assert not scene.declares_nodata


@pytest.mark.slow
@pytest.mark.long
def test_the_script_makes_them(examples: Path, imagery: Path, tmp_path: Path) -> None:
    script = examples / "make_examples.py"
    subprocess.run([sys.executable, script, imagery / "dubai", tmp_path], check=True)
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(made) == 21
    for path in made:
        if path.suffix == ".png":
            assert np.array_equal(rgb(tmp_path / path), rgb(examples / path))
        elif path.suffix == ".jpg":  # another build of libjpeg may round otherwise
            assert np.abs(rgb(tmp_path / path) - rgb(examples / path)).max() <= 4
    with (
        open_scene(tmp_path / "dubai_tile1.tif") as script_scene,
        open_scene(examples / "dubai_tile1.tif") as package_scene,
    ):
        difference = script_scene.dataset.read().astype(int) - package_scene.dataset.read()
        assert np.abs(difference).max() <= 4


@pytest.mark.parametrize(("name", "limit"), [("dubai", 1_000_000), ("dubai_tile1.tif", 1_500_000)])
def test_they_stay_small(examples: Path, name: str, limit: int) -> None:
    path = examples / name
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    assert 0 < sum(p.stat().st_size for p in files) < limit
