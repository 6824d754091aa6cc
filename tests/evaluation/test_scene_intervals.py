"""Intervals over whole scenes, where errors go together in more than a block."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from samples.evaluated_data import CLASSES, write_dataset, write_weights
from samples.raw_layouts import write_raster
from typer.testing import CliRunner, Result

import hrrsi
from hrrsi.cli import app

SIDE, BLOCK = 128, 32
SCHEME = """
name: halves
classes:
  - {name: roof, colour: [200, 0, 0]}
  - {name: lawn, colour: [0, 200, 0]}
images: ["images/{scene}.tif"]
labels: ["labels/{scene}.tif"]
label_format: indices
"""


def written(folder: Path, shares_wrong: list[float]) -> list[npt.NDArray[np.uint8]]:
    """Write labels, and maps that are wrong in a share of each scene's pixels, wherever in it."""
    random = np.random.default_rng(0)
    maps = []
    for number, share in enumerate(shares_wrong):
        truth = random.integers(0, 2, (SIDE, SIDE)).astype(np.uint8)
        is_wrong = random.random(truth.shape) < share
        maps.append(np.where(is_wrong, 1 - truth, truth).astype(np.uint8))
        name = f"s{number}.tif"
        write_raster(folder / "images" / name, np.zeros((3, SIDE, SIDE), np.uint8))
        write_raster(folder / "labels" / name, truth)
        write_raster(folder / "maps" / name, maps[-1])
    (folder / "scheme.yaml").write_text(SCHEME)
    return maps


def evaluated(folder: Path, *arguments: object) -> Result:
    options = ["--label", folder, "--scheme", folder / "scheme.yaml", "--map-format", "indices"]
    options += ["--block", BLOCK, "--overwrite", "--json", folder / "scores.json"]
    result = CliRunner().invoke(app, ["eval", *map(str, [*arguments, *options])])
    assert result.exit_code == 0, result.output
    return result


def test_errors_of_whole_scenes_are_told_of(tmp_path: Path) -> None:
    shares = [0.02, 0.6, 0.05, 0.5, 0.1, 0.03, 0.4, 0.02]
    written(tmp_path, shares)
    page = tmp_path / "report.html"
    text = " ".join(
        evaluated(tmp_path, "--pred", tmp_path / "maps", "--report", page).stdout.split()
    )
    data = json.loads((tmp_path / "scores.json").read_text())
    low, high = data["scene_intervals"]["OA"]
    # a bootstrap of its own: scenes are of one size, so OA is their mean
    random = np.random.default_rng(1)
    means = 1 - random.choice(shares, (20_000, len(shares))).mean(axis=1)
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
    block_low, block_high = data["intervals"]["OA"]
    assert high - low > 3 * (block_high - block_low)
    ends = f"{100 * low:.1f} to {100 * high:.1f}, not {100 * block_low:.1f} to"
    for shown in (text, page.read_text()):
        assert f"over whole scenes instead of blocks, that of OA is {ends}" in shown


@pytest.mark.parametrize("shares", [[0.2] * 8, [0.02, 0.6, 0.05, 0.5, 0.1]])
def test_even_errors_and_few_scenes_tell_nothing_more(tmp_path: Path, shares: list[float]) -> None:
    written(tmp_path, shares)
    result = evaluated(tmp_path, "--pred", tmp_path / "maps")
    assert "whole scenes" not in result.stdout
    data = json.loads((tmp_path / "scores.json").read_text())
    assert bool(data["scene_intervals"]) == (len(shares) >= 6)


def test_differences_of_two_maps_have_intervals_over_scenes_too(tmp_path: Path) -> None:
    worse = [0.02, 0.6, 0.05, 0.5, 0.1, 0.03, 0.4, 0.02]
    for number, wrong in enumerate(written(tmp_path, worse)):
        better = np.where(number % 2, 1 - wrong, wrong).astype(np.uint8)
        write_raster(tmp_path / "better" / f"s{number}.tif", better)
    text = " ".join(evaluated(tmp_path, tmp_path / "maps", tmp_path / "better").stdout.split())
    assert "Beware of the differences' intervals: over whole scenes instead of blocks" in text
    data = json.loads((tmp_path / "scores.json").read_text())
    of_scenes, of_blocks = (data[f"{kind}differences"]["OA"] for kind in ("scene_", ""))
    assert of_scenes["difference"] == of_blocks["difference"]
    widths = [float(np.ptp(each["interval"])) for each in (of_scenes, of_blocks)]
    assert widths[0] > 2 * widths[1]
    assert of_scenes["p"] > of_blocks["p"]


@pytest.mark.parametrize("patches_of_scene", [2, 3])
def test_patches_of_a_scene_go_together(tmp_path: Path, patches_of_scene: int) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"test": 12})
    for path in (dataset / "test").glob("*/p*.png"):
        scene, patch = divmod(int(path.stem[1:]), patches_of_scene)
        path.rename(path.with_name(f"s_{scene}_00000_{patch:05d}.png"))
    weights = write_weights(tmp_path / "random.safetensors", CLASSES)
    result = hrrsi.evaluate(dataset, weights=weights)
    assert (len(result.scene_intervals) > 0) == (patches_of_scene == 2)  # of six scenes, not four
    if result.scene_sums is not None:
        patches = result.evaluation.counts.blocks("full")
        assert (result.scene_sums == patches[::2] + patches[1::2]).all()
