"""Height models as one more band of `hrrsi predict`, `eval` and `info`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin
from safetensors.torch import load_file
from samples.command_results import done, run
from samples.height_scenes import (
    PIXELS,
    SHAPE,
    hills,
    mapped,
    own_scenes,
    read,
    reference,
    refusal,
)
from samples.made_weights import meta, save_made_weights
from samples.predicted_scenes import notices
from samples.raw_layouts import (
    class_map,
    utm,
    write_raster,
)

import hrrsi
from hrrsi.networks.weights import save_weights


@pytest.fixture(scope="module")
def height_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that see three bands of uint8 scenes and a height."""
    path = save_made_weights(tmp_path_factory.mktemp("weights") / "made.safetensors", bands=4)
    described = replace(meta(4), bands=[1, 2, 3], height=True)
    described.mean[3], described.std[3] = 280 / 255, 7 / 255
    save_weights(load_file(path), described, path)
    return path


@pytest.mark.long
def test_maps_are_what_the_network_says_of_image_and_heights(
    tmp_path: Path, height_weights: Path
) -> None:
    heights = hills(SHAPE)
    scene = write_raster(tmp_path / "scene.tif", PIXELS, **utm())
    dsm = write_raster(tmp_path / "dsm.tif", heights, **utm())
    labels = mapped(height_weights, scene, tmp_path / "map.tif", "--height", dsm)
    stack = np.concatenate([PIXELS.astype(np.float32), heights[None]])
    expected = reference(height_weights, stack)
    assert (labels == expected).mean() > 0.999
    # they are seen: other heights, another map
    assert (expected != reference(height_weights, stack - [[[0]], [[0]], [[0]], [[12]]])).any()
    segmenter = hrrsi.Segmenter(
        height_weights, window=192, engine=hrrsi.EngineOptions(precision="32")
    )
    assert (segmenter(np.moveaxis(stack, 0, -1)) == labels).mean() > 0.999


def test_heights_are_normalised_alike_for_imagery_of_another_type(
    tmp_path: Path, height_weights: Path
) -> None:
    dsm = write_raster(tmp_path / "dsm.tif", hills(SHAPE), **utm())
    eight = write_raster(tmp_path / "eight.tif", PIXELS, **utm())
    sixteen = write_raster(tmp_path / "sixteen.tif", PIXELS.astype(np.uint16) * 16, **utm())
    labels = mapped(height_weights, eight, tmp_path / "map8.tif", "--height", dsm)
    again = mapped(
        height_weights, sixteen, tmp_path / "map16.tif", "--height", dsm, "--scale", 255 * 16
    )
    np.testing.assert_array_equal(labels, again)


@pytest.mark.long
def test_pixels_without_height_have_no_class(tmp_path: Path, height_weights: Path) -> None:
    heights = hills(SHAPE)
    heights[20:40, 50:90] = -9999
    scene = write_raster(tmp_path / "scene.tif", PIXELS, **utm())
    dsm = write_raster(tmp_path / "dsm.tif", heights, nodata=-9999, **utm())
    result = done(
        *("predict", scene, "--weights", height_weights, "--height", dsm, "--quiet"),
        *("--out", tmp_path / "map.tif", "--window", 64),
    )
    np.testing.assert_array_equal(read(tmp_path / "map.tif")[0] == 255, heights == -9999)
    warning, *others = result.stderr.strip().splitlines()
    assert not others  # nor is the imagery unlike training's because of its heights
    assert f"{800 / heights.size:.2%} of the scene's pixels have no height" in warning
    assert f"heights: {dsm}" in result.stdout
    write_raster(dsm, np.full(SHAPE, -9999, dtype=np.float32), nodata=-9999, **utm())
    options = ("--weights", height_weights, "--height", dsm, "--quiet", "--out", tmp_path / "b.tif")
    assert "holds no height where the scene has data" in refusal("predict", scene, *options)


@pytest.mark.long
def test_heights_of_another_kind_are_told(tmp_path: Path, height_weights: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", PIXELS, **utm())
    dsm = write_raster(tmp_path / "dsm.tif", hills(SHAPE) - 278, **utm())
    result = done(
        *("predict", scene, "--weights", height_weights, "--height", dsm, "--quiet"),
        *("--out", tmp_path / "map.tif"),
    )
    (line,) = result.stderr.strip().splitlines()
    assert "heights unlike those that the weights were trained on: mean" in line
    assert "where training had 280 (7)" in line


@pytest.mark.long
def test_height_models_of_many_scenes(tmp_path: Path, height_weights: Path) -> None:
    for number in (2, 10):
        scene = tmp_path / "all" / f"top_town_{number}_rgb.tif"
        write_raster(scene, PIXELS[:, :64, :64], **utm(row=500 * number))
        dsm = tmp_path / "all" / f"dsm_{number:03}.tif"
        write_raster(dsm, hills((64, 64), number), **utm(row=500 * number))
    options = ("--weights", height_weights, "--quiet", "--window", 64, "--precision", 32)
    template = tmp_path / "all" / "dsm_{}.tif"
    result = done("predict", tmp_path / "all", *options, "--height", template, "--out", tmp_path)
    for number in (2, 10):
        scene = tmp_path / "all" / f"top_town_{number}_rgb.tif"
        dsm = tmp_path / "all" / f"dsm_{number:03}.tif"
        assert f"heights: {dsm}" in result.stdout
        alone = tmp_path / "alone.tif"
        done("predict", scene, *options, "--height", dsm, "--out", alone, "--overwrite")
        np.testing.assert_array_equal(
            read(alone), read(tmp_path / f"top_town_{number}_rgb_classes.tif")
        )
    assert len(list(tmp_path.glob("*_classes.tif"))) == 2  # height models are no scenes
    assert (
        "_classes"
        in done(
            "predict",
            tmp_path / "all",
            *options,
            "--height",
            template,
            "--out",
            tmp_path / "plan",
            "--dry-run",
        ).stdout
    )


def test_weights_and_height_models_go_together(
    tmp_path: Path, height_weights: Path, made_weights: Path
) -> None:
    scheme = own_scenes(tmp_path)
    scene, dsm = tmp_path / "raw/images/a_1.tif", tmp_path / "dsm.tif"
    write_raster(dsm, hills((96, 64)))
    wanted, unwanted = "weights see a height model", "weights see no height model"
    for command in (("predict", scene), ("eval", tmp_path / "raw", "--scheme", scheme)):
        assert wanted in refusal(*command, "--weights", height_weights)
        assert unwanted in refusal(*command, "--weights", made_weights, "--height", dsm)
    with pytest.raises(hrrsi.errors.OptionError, match=wanted):
        hrrsi.predict(scene, weights=height_weights)
    assert run("eval", tmp_path, "--height", dsm).exit_code == 2  # for whole scenes


def dubai_scheme(root: Path) -> Path:
    """Write Dubai's classes as a scheme of class indices."""
    text = yaml.safe_load(
        Path(hrrsi.labels.scheme.__file__).with_name("schemes").joinpath("dubai.yaml").read_text()
    )
    kept = {"name": "towns", "classes": text["classes"], "label_format": "indices"}
    path = root / "towns.yaml"
    path.write_text(yaml.safe_dump(kept))
    return path


@pytest.fixture
def towns(tmp_path: Path) -> Path:
    """Three labelled scenes with real pixels and heights, some of them missing; their scheme."""
    for number, name in enumerate(["a", "b", "c"]):
        place = utm(row=500 * number)
        write_raster(
            tmp_path / f"raw/images/{name}.tif", PIXELS[:, :96, number * 40 :][..., :96], **place
        )
        write_raster(tmp_path / f"raw/labels/{name}.tif", class_map(number, 96, 96, 5))
        heights = hills((60, 60), number)
        heights[20:25, 20 + number : 30] = -9999
        grid = from_origin(500_000 - 2, 5_500_000 - 250 * number + 2, 0.9, 0.9)
        write_raster(
            tmp_path / f"raw/dsm/dsm_{name}.tif",
            heights,
            crs=place["crs"],
            transform=grid,
            nodata=-9999,
        )
    return dubai_scheme(tmp_path)


@pytest.mark.long
def test_eval_of_scenes_and_of_patches_with_heights(
    towns: Path, tmp_path: Path, height_weights: Path
) -> None:
    raw = tmp_path / "raw"
    reading = ("--scheme", towns, "--height", "dsm/dsm_{}.tif", "--quiet")
    done(
        "tile",
        raw,
        *reading,
        "--val-scenes",
        "b",
        "--test-scenes",
        "c",
        "--size",
        96,
        "--workers",
        1,
        "--out",
        tmp_path / "ds",
    )
    flags = ("--weights", height_weights, "--format", "json", "--quiet")
    patches = json.loads(done("eval", tmp_path / "ds", *flags).stdout)
    scenes = json.loads(
        done("eval", raw, *reading, *flags, "--scenes", "c", "--window", 96, "--overlap", 0).stdout
    )
    dsm = raw / "dsm/dsm_c.tif"
    done(
        "predict",
        raw / "images/c.tif",
        "--weights",
        height_weights,
        "--precision",
        32,
        "--window",
        96,
        "--height",
        dsm,
        "--out",
        tmp_path / "c.tif",
        "--quiet",
    )
    truth, labels = read(raw / "labels/c.tif")[0], read(tmp_path / "c.tif")[0]
    is_labelled = labels != 255
    assert 0 < (~is_labelled).sum() < 400
    expected = (truth == labels)[is_labelled].mean()
    assert scenes["scores"]["OA"] == pytest.approx(expected, abs=1e-6)
    # patches hold zeros where scenes are filled with mirror images
    assert patches["scores"]["OA"] == pytest.approx(expected, abs=0.02)
    assert "heights dsm/dsm_{}.tif" in str(scenes)
    for name in ("a", "b", "c"):
        with rasterio.open(raw / f"dsm/dsm_{name}.tif", "r+") as dataset:
            values = dataset.read()
            dataset.write(np.where(values > 0, values - 278, values))  # above the ground
    command = ("eval", raw, *reading, *flags, "--window", 96)
    lines = notices(done(*command))
    assert sum("heights unlike those that the weights" in line for line in lines) == 1
    assert sum("of the scene's pixels have no height" in line for line in lines) == 3


@pytest.mark.long
def test_resume_knows_the_height_model(tmp_path: Path, height_weights: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", PIXELS[:, :64, :64], **utm())
    dsm = write_raster(tmp_path / "dsm.tif", hills((64, 64)), **utm())
    command = (
        "predict",
        scene,
        "--weights",
        height_weights,
        "--height",
        dsm,
        "--quiet",
        "--window",
        64,
        "--out",
        tmp_path / "map.tif",
    )
    done(*command)
    assert "was finished already" in done(*command, "--resume").stdout
    write_raster(dsm, hills((64, 64), 5) + 1, **utm())
    assert "was made otherwise" in refusal(*command, "--resume")


@pytest.mark.long
def test_patches_without_heights_are_no_data_for_such_weights(
    towns: Path, tmp_path: Path, height_weights: Path, made_weights: Path
) -> None:
    options = (
        "--scheme",
        towns,
        "--val-scenes",
        "b",
        "--test-scenes",
        "c",
        "--size",
        96,
        "--quiet",
    )
    done("tile", tmp_path / "raw", *options, "--workers", 1, "--out", tmp_path / "plain")
    done(
        "tile",
        tmp_path / "raw",
        *options,
        "--workers",
        1,
        "--out",
        tmp_path / "high",
        "--height",
        "dsm/dsm_{}.tif",
    )
    assert "height" not in yaml.safe_load((tmp_path / "plain/dataset.yaml").read_text())
    assert "have 3 bands where the weights expect 3 bands and heights" in refusal(
        "eval", tmp_path / "plain", "--weights", height_weights
    )
    assert "have 3 bands and heights where the weights expect 3 bands" in refusal(
        "eval", tmp_path / "high", "--weights", made_weights
    )


def test_info_says_that_there_are_heights(
    towns: Path, tmp_path: Path, height_weights: Path
) -> None:
    done(
        "tile",
        tmp_path / "raw",
        "--scheme",
        towns,
        "--val-scenes",
        "b",
        "--size",
        96,
        "--quiet",
        "--workers",
        1,
        "--out",
        tmp_path / "ds",
        "--height",
        "dsm/dsm_{}.tif",
    )
    assert "255 = full; then heights (dsm/dsm_{}.tif)" in done("info", tmp_path / "ds").stdout
    assert "255 = full; then heights\n" in done("info", height_weights).stdout
    assert json.loads(done("info", height_weights, "--format", "json").stdout)["height"] is True
