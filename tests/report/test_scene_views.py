"""Pictures of scenes in the HTML report: what they show, how large they are."""

import base64
import dataclasses
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples.made_evaluation import (
    COLOURS,
    begun_views,
    evaluated_map,
    made_prediction,
    made_scene,
)

from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.report.page import report_page, write_page
from hrrsi.report.scene_views import MOST_SCENES
from hrrsi.report.viewer_section import worst_regions


def _decoded(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(image)))


def test_views_show_truth_prediction_and_errors(scenes: list, one_map) -> None:
    view, scene = one_map.views[0], scenes[0]
    prediction, _ = made_prediction(scene, 1)
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(COLOURS)] = COLOURS
    palette[255] = (43, 48, 54)

    shown = np.asarray(Image.open(BytesIO(view.truth)).convert("RGB"))
    assert np.array_equal(shown, palette[scene.truth])
    shown = np.asarray(Image.open(BytesIO(view.prediction)).convert("RGB"))
    assert np.array_equal(shown, palette[prediction])
    opacity = np.asarray(Image.open(BytesIO(view.errors)).convert("RGBA"))[..., 3]
    wrong = (scene.truth != 255) & (scene.truth != prediction)
    assert np.array_equal(opacity == 255, wrong)
    assert np.array_equal((opacity > 0) & ~wrong, scene.truth == 255)
    assert _decoded(view.picture).shape == (300, 400, 3)


def _views(height: int, width: int, scenes: int = 1, rows: int = 100) -> tuple:
    truth = (np.add.outer(np.arange(height) // 7, np.arange(width) // 5) % 6).astype(np.uint8)
    files = [SceneFiles(f"s{number}", "none") for number in range(scenes)]
    collector = begun_views(files, are_maps=True)
    for file in files:
        for row in range(0, height, rows):
            part = truth[row : row + rows]
            collector.add(file, EvaluatedStrip(row, part, part))
    return truth, collector.views


@pytest.mark.parametrize(
    ("height", "width", "step", "rows"),
    [
        (2000, 2500, 2, 1),
        (2000, 2500, 2, 97),
        (1400, 1400, 1, 4000),
        (3100, 3100, 3, 97),
        (9000, 700, 8, 97),
        (9000, 700, 8, 9000),
        (1, 1, 1, 1),
    ],
)
def test_large_scenes_are_thinned_evenly(height: int, width: int, step: int, rows: int) -> None:
    truth, (view,) = _views(height, width, rows=rows)
    assert (view.height, view.width, view.step) == (height, width, step)
    assert np.array_equal(_decoded(view.truth), truth[::step, ::step])
    assert max(_decoded(view.truth).shape) <= 1400 * 1.3


def test_many_scenes_have_smaller_pictures_and_the_first_only() -> None:
    _, views = _views(400, 500, scenes=MOST_SCENES + 5)
    assert len(views) == MOST_SCENES
    assert views[0].step == 1
    _, views = _views(2000, 2500, scenes=24, rows=2000)
    assert views[0].step == 4


def test_a_picture_of_another_grid_is_left_out(scenes: list) -> None:
    file = SceneFiles("cut", str(scenes[0].path))
    collector = begun_views([file])
    part = scenes[0].truth[:200]
    collector.add(file, EvaluatedStrip(0, part, part))
    assert collector.views[0].picture is None


def test_worst_regions_are_the_blocks_with_most_wrong_pixels(scenes: list, one_map) -> None:
    scene, counts = scenes[0], one_map.result.evaluation.counts.scenes[0]
    prediction, _ = made_prediction(scene, 1)
    wrong = (scene.truth != 255) & (scene.truth != prediction)
    blocks = {
        (row, column): int(wrong[row : row + 64, column : column + 64].sum())
        for row in range(0, 300, 64)
        for column in range(0, 400, 64)
    }
    expected = sorted(blocks.values(), reverse=True)[:6]

    regions = worst_regions(counts, "full")
    assert [r.wrong for r in regions] == expected
    for region in regions:
        assert blocks[region.row, region.column] == region.wrong
        assert region.share_of_errors == pytest.approx(region.wrong / wrong.sum())
        part = np.s_[region.row : region.row + 64, region.column : region.column + 64]
        pairs = [
            ((scene.truth[part] == t) & (prediction[part] == p)).sum()
            for t in range(6)
            for p in range(6)
            if t != p
        ]
        led = (scene.truth[part] == region.true) & (prediction[part] == region.predicted)
        assert led.sum() == max(pairs)
        assert region.share_of_wrong == pytest.approx(max(pairs) / region.wrong)


@pytest.mark.slow
def test_a_page_of_five_large_scenes_stays_below_15_mb(tmp_path: Path) -> None:
    names = [f"area{n}" for n in (11, 15, 28, 30, 34)]
    small = [made_scene(tmp_path, name, 64, 96, seed) for seed, name in enumerate(names)]
    first, second = (evaluated_map(name, small, seed) for name, seed in (("A", 1), ("B", 50)))
    large = made_scene(tmp_path, "large", 2000, 2500, 90)
    maps = []
    for seed, evaluated in ((1, first), (2, second)):
        files = [SceneFiles(name, str(large.path)) for name in names]
        collector = begun_views(files)
        prediction, _ = made_prediction(large, seed)
        for row in range(0, 2000, 250):
            rows = slice(row, row + 250)
            strip = EvaluatedStrip(row, large.truth[rows], prediction[rows])
            collector.add(files[0], strip)
        (view,) = collector.views
        views = tuple(dataclasses.replace(view, name=name) for name in names)
        maps.append(dataclasses.replace(evaluated, views=views))
    assert all(view.picture for view in maps[0].views)
    for count in (1, 2):
        path = tmp_path / "large.html"
        write_page(path, maps[:count])
        assert 2e6 < path.stat().st_size < 15e6


def test_pictures_are_those_of_the_views(one_map) -> None:
    text = report_page([one_map])
    assert base64.b64encode(one_map.views[1].errors).decode() in text
