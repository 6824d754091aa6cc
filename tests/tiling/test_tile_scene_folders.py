"""`hrrsi tile FOLDER --labels FILE`: every raster of the folder is a scene, but for some."""

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from rasterio.shutil import copy as copy_raster
from samples.made_weights import save_made_weights
from samples.one_ortho import tile, write_ortho, write_polygons

import hrrsi

SQUARES = [(0, 0, 40), (40, 0, 40), (0, 50, 60), (60, 60, 30)]


@pytest.fixture
def ortho(tmp_path: Path) -> Path:
    return write_ortho(tmp_path / "flight", 96, 128)


@pytest.fixture
def areas(tmp_path: Path, ortho: Path) -> Path:
    names = ["Water", "Road", "Buildings", "Water"]
    return write_polygons(tmp_path / "areas.gpkg", SQUARES, {"class": names})


def scenes_of(folder: Path | str, labels: Path | str, out: Path) -> tuple[list[str], list[str]]:
    """Names of the scenes that are cut from a folder, and what is said."""
    result = tile(folder, "--labels", labels, "--size", 64, "--out", out)
    assert result.exit_code == 0, result.output
    described = yaml.safe_load((out / "dataset.yaml").read_text())
    return described["splits"]["train"]["scenes"], result.stderr.splitlines()


@pytest.mark.parametrize("as_link", [False, True])
def test_a_label_raster_among_scenes_is_no_scene_however_it_is_named(
    tmp_path: Path, ortho: Path, as_link: bool
) -> None:
    with rasterio.open(ortho) as dataset:
        profile = {**dataset.profile, "count": 3}
        picture = np.zeros((3, *dataset.shape), dtype=np.uint8)
    picture[0, :40], picture[1, 40:] = 255, 200
    label = ortho.parent / "truth.tif"
    with rasterio.open(label, "w", **profile) as dataset:
        dataset.write(picture)
    named = str(ortho.parent / ".." / ortho.parent.name / "truth.tif")
    if as_link:
        named = str(tmp_path / "elsewhere.tif")
        os.symlink(label, named)
    scenes, _ = scenes_of(ortho.parent, named, tmp_path / "d")
    assert scenes == [ortho.stem]


def test_maps_that_hrrsi_made_are_no_scenes(tmp_path: Path, ortho: Path, areas: Path) -> None:
    weights = save_made_weights(tmp_path / "made.safetensors")
    options = hrrsi.MapOptions(window=64)
    hrrsi.predict(
        [ortho],
        weights,
        out=ortho.parent,
        options=options,
        outputs=hrrsi.OutputOptions(preview="png", confidence="uint8"),
    )
    assert len(list(ortho.parent.glob("*_classes.*"))) >= 2
    scenes, _ = scenes_of(ortho.parent, areas, tmp_path / "d")
    assert scenes == [ortho.stem]
    # given by itself, it is what the user wants
    chosen = next(ortho.parent.glob("*_classes.tif"))
    scenes, _ = scenes_of(chosen, areas, tmp_path / "e")
    assert scenes == [chosen.stem]


def test_a_quick_look_is_left_out_and_told(tmp_path: Path, ortho: Path, areas: Path) -> None:
    with rasterio.open(ortho) as dataset:
        pixels = dataset.read(out_shape=(3, 24, 32))
        place = {"crs": dataset.crs, "transform": dataset.transform @ Affine.scale(4)}
    look = ortho.with_suffix(".jpg")
    size = {"height": 24, "width": 32, "count": 3, "dtype": "uint8"}
    with rasterio.open(look, "w", driver="JPEG", **size, **place) as dataset:
        dataset.write(pixels)
    scenes, said = scenes_of(ortho.parent, areas, tmp_path / "d")
    assert scenes == [ortho.stem]
    assert f"warning: {look}: left out, since {ortho.name} has its name" in said
    with rasterio.open(next((tmp_path / "d" / "train" / "image").iterdir())) as patch:
        assert patch.shape == (64, 64)
    described = yaml.safe_load((tmp_path / "d" / "dataset.yaml").read_text())
    with rasterio.open(ortho) as dataset:
        assert described["resolution"] == pytest.approx(dataset.res[0])


def test_tiles_of_a_mosaic_beside_them_are_cut_once(
    tmp_path: Path, ortho: Path, areas: Path
) -> None:
    mosaic = ortho.parent / "all.vrt"
    with rasterio.open(ortho) as dataset:
        copy_raster(dataset, mosaic, driver="VRT")
    scenes, said = scenes_of(ortho.parent, areas, tmp_path / "d")
    assert scenes == ["all"]
    assert any(line.startswith(f"warning: {mosaic}: shows 1 raster beside it") for line in said)
