"""Window seams: found where a map has them, and only there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from seam_statistic import (
    LabelChanges,
    label_changes,
    map_label_changes,
    seam_statistic,
    window_joints,
)
from typer.testing import CliRunner

from hrrsi.cli import app

pytestmark = pytest.mark.slow  # of a benchmark, not of the program
NO_DATA = 255


def land(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A made map of patches of five classes, with no window in it."""
    draw = np.random.default_rng(seed)
    places = draw.uniform((0, 0), (height, width), (height * width // 900, 2))
    classes = draw.integers(0, 5, len(places))
    rows, columns = np.indices((height, width))
    nearest = np.full((height, width), np.inf)
    labels = np.zeros((height, width), dtype=np.uint8)
    for (row, col), index in zip(places, classes, strict=True):
        distance = np.hypot(rows - row, columns - col)
        closer = distance < nearest
        labels[closer] = index
        nearest[closer] = distance[closer]
    return labels


def with_windows(labels: np.ndarray, size: int, seed: int = 1) -> np.ndarray:
    """The map with a fifth of each window's pixels relabelled in its own way."""
    draw = np.random.default_rng(seed)
    result = labels.copy()
    for row in range(0, labels.shape[0], size):
        for col in range(0, labels.shape[1], size):
            part = result[row : row + size, col : col + size]
            part[part == draw.integers(0, 5)] = draw.integers(0, 5)
    return result


def changes(labels: np.ndarray, rows: int = 1000) -> LabelChanges:
    strips = ((first, labels[first : first + rows]) for first in range(0, len(labels), rows))
    return label_changes(strips, *labels.shape)


def test_no_seam_is_seen_in_a_map_without_windows() -> None:
    for seed in range(4):
        statistic = seam_statistic(changes(land(300, 400, seed)), window=64, overlap=0)
        assert statistic is not None
        assert 0.7 < statistic.ratio < 1.3
        assert statistic.p_value > 0.05
        low, high = statistic.noise
        assert low < 1 < high


def test_planted_seams_are_found() -> None:
    statistic = seam_statistic(changes(with_windows(land(300, 400), 64)), window=64, overlap=0)
    assert statistic is not None
    assert statistic.joints == 4 + 6
    assert statistic.ratio > 1.5
    assert statistic.ratio > statistic.noise[1]
    # no shift of the lines reaches the share of the true ones
    assert statistic.p_value == 1 / (1 + len(statistic.shifted_shares)) < 0.02
    assert np.nanargmax(statistic.profile) == len(statistic.profile) // 2


def test_several_maps_count_as_one() -> None:
    maps = [changes(with_windows(land(300, 400, seed), 64, seed)) for seed in (1, 2)]
    apart = [seam_statistic(a_map, window=64, overlap=0) for a_map in maps]
    together = seam_statistic(*maps, window=64, overlap=0)
    assert together is not None
    assert apart[0] is not None
    assert apart[1] is not None
    assert together.joints == apart[0].joints + apart[1].joints
    # the maps have the same size, so their shares count alike
    assert together.seam_share == pytest.approx((apart[0].seam_share + apart[1].seam_share) / 2)
    none = seam_statistic(changes(land(60, 60)), window=64, overlap=0)
    with_one_window = seam_statistic(maps[0], changes(land(60, 60)), window=64, overlap=0)
    assert none is None
    assert with_one_window is not None
    assert with_one_window.seam_share == apart[0].seam_share


def test_seams_of_other_windows_are_not_taken_for_these() -> None:
    planted = changes(with_windows(land(300, 400), 64))
    statistic = seam_statistic(planted, window=50, overlap=0)
    assert statistic is not None
    assert statistic.p_value > 0.05


@pytest.mark.parametrize("place", ["begin", "middle", "end"])
def test_a_seam_is_found_at_every_line_of_a_handover(place: str) -> None:
    labels = land(300, 400)
    for joint in window_joints(400, 96, 32):
        # right of the line everything is another class
        line = getattr(joint, place)
        labels[:, line:] = (labels[:, line:] + 1) % 5
    statistic = seam_statistic(changes(labels), window=96, overlap=32)
    assert statistic is not None
    assert statistic.ratio > 3
    assert statistic.p_value < 0.05
    assert statistic.overlap_ratio is not None
    assert statistic.overlap_ratio > 1


def test_lines_and_shares_are_those_of_a_naive_count() -> None:
    size, overlap, height, width = 24, 8, 70, 90
    labels = land(height, width)
    labels[10:33, 20:50] = NO_DATA
    statistic = seam_statistic(changes(labels, rows=7), window=size, overlap=overlap)

    def joints(length: int) -> Iterator[tuple[int, int, int]]:
        start = 0
        while start + size < length:
            yield start + size - overlap, start + size - overlap // 2, start + size
            start += size - overlap

    changed = {"seam": 0, "else": 0, "in": 0, "out": 0}
    compared = dict(changed)
    for axis, length in enumerate(labels.shape):
        seams = {line for joint in joints(length) for line in joint}
        inside = {n for first, _, last in joints(length) for n in range(first, last + 1)}
        for line in range(1, length):
            a, b = np.take(labels, line - 1, axis), np.take(labels, line, axis)
            for label, neighbour in zip(a, b, strict=True):
                if NO_DATA in (label, neighbour):
                    continue
                for key in ("seam" if line in seams else "else", "in" if line in inside else "out"):
                    compared[key] += 1
                    changed[key] += label != neighbour
    assert statistic is not None
    assert statistic.seam_share == changed["seam"] / compared["seam"]
    assert statistic.elsewhere_share == changed["else"] / compared["else"]
    assert statistic.overlap_share == changed["in"] / compared["in"]
    assert statistic.outside_share == changed["out"] / compared["out"]


def test_pairs_without_data_count_for_nothing() -> None:
    labels = with_windows(land(300, 400), 64)
    before = seam_statistic(changes(labels), window=64, overlap=0)
    for line in range(64, 400, 64):
        labels[:, line - 1] = NO_DATA
    for line in range(64, 300, 64):
        labels[line - 1] = NO_DATA
    assert before is not None
    # every seam lies beside pixels without data now
    assert seam_statistic(changes(labels), window=64, overlap=0) is None
    counted = changes(labels)
    assert counted.columns.compared[64] == counted.columns.compared[63] == 0
    assert counted.columns.compared[62] > 0


@pytest.mark.parametrize("size", [300, 512])
def test_a_scene_of_one_window_has_nothing_to_say(size: int) -> None:
    assert window_joints(300, size, 64) == []
    assert seam_statistic(changes(land(300, 300)), window=size, overlap=64) is None


def test_one_class_everywhere_has_no_seam() -> None:
    statistic = seam_statistic(changes(np.zeros((200, 200), dtype=np.uint8)), window=64, overlap=16)
    assert statistic is not None
    assert statistic.ratio == 1
    assert statistic.p_value == 1


def test_strips_may_have_any_height_but_must_cover_the_map() -> None:
    labels = land(100, 60)
    whole = changes(labels)
    for rows in (1, 13, 99):
        for counts, expected in zip(changes(labels, rows), whole, strict=True):
            np.testing.assert_array_equal(counts.changed, expected.changed)
            np.testing.assert_array_equal(counts.compared, expected.compared)
    with pytest.raises(ValueError, match="90 rows where the map has 100"):
        label_changes([(0, labels[:90])], 100, 60)
    with pytest.raises(ValueError, match="at row 20, not at 0"):
        label_changes([(20, labels)], 100, 60)


@pytest.mark.long
def test_a_real_map_without_overlap_has_seams(examples: Path, tmp_path: Path) -> None:
    scene, out = tmp_path / "scene.tif", tmp_path / "map.tif"
    with rasterio.open(examples / "dubai_tile1.tif") as source:
        crop = source.read(window=Window(600, 400, 1024, 1024))
    with rasterio.open(
        scene, "w", driver="GTiff", width=1024, height=1024, count=3, dtype="uint8"
    ) as dataset:
        dataset.write(crop)
    options = ["--window", "256", "--overlap", "0", "--out", str(out), "--quiet"]
    result = CliRunner().invoke(app, ["predict", str(scene), *options])
    assert result.exit_code == 0, result.output
    statistic = seam_statistic(map_label_changes(out), window=256, overlap=0)
    assert statistic is not None
    assert statistic.joints == 6
    assert statistic.ratio > statistic.noise[1]
    assert statistic.p_value < 0.02
