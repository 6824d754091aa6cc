"""Scores of labels that tell only some classes apart, against counting by hand."""

from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import from_origin
from samples.class_borders import blobs, naive_boundary
from samples.predicted_scenes import save_scene

import hrrsi
from hrrsi.evaluation.boundary_scores import BorderDistanceCounts, boundary_scores
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.scene_counts import PooledCounts, SceneCounts
from hrrsi.evaluation.scores import ConfusionMatrix

PLACE = {"crs": "EPSG:32640", "transform": from_origin(500000, 2790000, 0.3, 0.3)}

CLASSES = ["building", "road", "vegetation"]
CANDIDATES = [[0], [1], [2], [1, 2]]  # the last label: no building


@pytest.fixture
def pixels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    prediction = rng.integers(0, 3, 4000).astype(np.uint8)
    truth = rng.choice([0, 1, 2, 3, 255], 4000, p=[0.3, 0.2, 0.1, 0.3, 0.1]).astype(np.uint8)
    return prediction, truth


def counted(prediction: np.ndarray, truth: np.ndarray) -> ConfusionMatrix:
    matrix = ConfusionMatrix(CLASSES, candidates=CANDIDATES)
    matrix.add(prediction, truth)
    return matrix


def test_what_the_labels_decide_is_scored(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = pixels
    scores = counted(prediction, truth).scores()
    may_be = [{0}, {1}, {2}, {1, 2}]
    for index, of_class in enumerate(scores.classes):
        hits = misses = false = 0
        for predicted, label in zip(prediction, truth, strict=True):
            if label == 255:
                continue
            hits += predicted == index and may_be[label] == {index}
            misses += predicted != index and may_be[label] == {index}
            false += predicted == index and index not in may_be[label]
        assert of_class.iou == pytest.approx(hits / (hits + misses + false))
        assert of_class.precision == pytest.approx(hits / (hits + false))
        assert of_class.recall == pytest.approx(hits / (hits + misses))
    right = [p in may_be[t] for p, t in zip(prediction, truth, strict=True) if t != 255]
    assert scores.overall_accuracy == pytest.approx(np.mean(right))
    assert scores.pixels == len(right)


def test_kappa_and_calibration_have_no_figures(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = (values.reshape(40, 100) for values in pixels)
    exact = np.where(truth < 3, truth, 255).astype(np.uint8)
    for labels, is_defined in ((truth, False), (exact, True)):
        assert np.isfinite(counted(prediction, labels).scores().kappa) == is_defined
        scene = SceneCounts("a", CLASSES, candidates=CANDIDATES)
        confidence = np.full(labels.shape, 0.5, dtype=np.float32)
        scene.add([EvaluatedStrip(0, labels, prediction, confidence)])
        assert PooledCounts((scene,)).reliability.pixels.any() == is_defined


def test_borders_are_scored_where_labels_tell_them() -> None:
    truth, prediction = blobs(0, ignored=0.1, classes=3), blobs(1, classes=3)
    prediction[:60] = truth[:60]
    outlines = np.where(truth == 0, 0, np.where(truth == 255, 255, 3)).astype(np.uint8)
    scene = SceneCounts("a", CLASSES, candidates=CANDIDATES)
    scene.add([EvaluatedStrip(row, outlines[row : row + 50], prediction[row : row + 50])
               for row in range(0, len(truth), 50)])  # fmt: skip
    scores = boundary_scores(PooledCounts((scene,)).boundary_blocks.sum(axis=0), CLASSES)
    for at in scores:
        building, *others = at.classes
        parts = naive_boundary(prediction, truth, 0, at.tolerance)  # by labels of every class
        expected = [part / whole for part, whole in parts]
        assert [building.precision, building.recall, building.iou] == pytest.approx(expected)
        assert 0.1 < building.f1 < 0.99
        assert np.isnan([value for other in others for value in (other.f1, other.iou)]).all()
        assert at.mean_f1 == building.f1


def test_accuracy_by_distance_counts_what_a_label_may_be() -> None:
    truth = np.full((40, 60), 3, dtype=np.uint8)
    truth[:, :20] = 0
    truth[:, 50:] = 1  # may be the same class as its neighbour: no border
    prediction = np.full(truth.shape, 2, dtype=np.uint8)
    prediction[:, :15] = 0
    counts = BorderDistanceCounts(CANDIDATES)
    counts.add(EvaluatedStrip(0, truth, prediction), (slice(0, 40), slice(0, 60)))
    assert counts.pixels[0] == 80
    assert counts.accuracy_between(0, 4) == pytest.approx(0.5)  # 5 columns of road, 5 of no road
    assert counts.accuracy_between(5, 14) == pytest.approx(1.0)
    assert counts.accuracy_between(30, 32) == 0.0


def test_a_class_that_no_label_tells_apart_has_no_score() -> None:
    prediction = np.array([0, 0, 1, 2, 1, 0], dtype=np.uint8)
    truth = np.array([0, 3, 3, 3, 0, 0], dtype=np.uint8)
    scores = counted(prediction, truth).scores()
    assert scores.classes[0].iou == pytest.approx(2 / 4)
    assert np.isnan([scores.classes[1].iou, scores.classes[2].f1]).all()
    assert scores.mean_iou == pytest.approx(0.5)
    assert scores.overall_accuracy == pytest.approx(4 / 6)


def test_matrices_of_other_labels_do_not_merge() -> None:
    with pytest.raises(ValueError, match="differ"):
        ConfusionMatrix(CLASSES).merge(ConfusionMatrix(CLASSES, candidates=CANDIDATES))


@pytest.mark.parametrize("protocol", ["all", "isprs"])
def test_a_scheme_may_have_partial_labels_that_no_scene_holds(
    protocol: str, tmp_path: Path
) -> None:
    """And a table for notebooks has a row for a class that no mean is of."""
    truth, prediction = blobs(0, classes=3), blobs(1, classes=3)
    prediction[: len(truth) // 2] = truth[: len(truth) // 2]
    for name, values in (("label", truth), ("map", prediction)):
        save_scene(tmp_path / f"{name}.tif", values[None], **PLACE)
    scheme = tmp_path / "s.yaml"
    scheme.write_text(
        "{name: s, label_format: indices, classes: [{name: road, colour: [9, 0, 0]}, "
        "{name: building, colour: [0, 9, 0]}, {name: clutter, colour: [0, 0, 9]}], partial: "
        "[{name: no building, index: 7, colour: [9, 9, 9], classes: [road, clutter]}]}"
    )
    result = hrrsi.evaluate(
        tmp_path / "label.tif",
        maps=tmp_path / "map.tif",
        options=hrrsi.EvaluationOptions(scheme=str(scheme), protocol=protocol, block=32),
    )
    assert len(result.areas) == len(result.area_intervals) == 3
    assert sum(area.estimated for area in result.areas) == pytest.approx(1)
    assert "clutter" in result._repr_html_()
