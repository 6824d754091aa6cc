"""Scores of labels that tell only some classes apart, against counting by hand."""

import numpy as np
import pytest

from hrrsi.evaluation.scores import ConfusionMatrix

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


def test_kappa_is_that_of_the_labels_that_tell_classes_apart(
    pixels: tuple[np.ndarray, np.ndarray],
) -> None:
    prediction, truth = pixels
    apart = truth < 3
    alone = ConfusionMatrix(CLASSES)
    alone.add(prediction[apart], truth[apart])
    assert counted(prediction, truth).scores().kappa == alone.scores().kappa


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
