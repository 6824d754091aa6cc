"""Borders of classes: boundary F1 and IoU, accuracy near borders, eroded labels.

The references here look at one class after the other, on the whole raster at once.
"""

import numpy as np
import pytest
from samples.class_borders import CROSS, blobs, disc, naive_boundary
from scipy import ndimage

from hrrsi.evaluation.boundary_scores import (
    FARTHEST,
    TOLERANCES,
    BorderDistanceCounts,
    BoundaryCounts,
)
from hrrsi.evaluation.class_borders import eroded_labels, near_other_class
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip, with_margins

NAMES = ("roof", "road", "tree", "water")


def strips_of(prediction, truth, rows):
    return [
        EvaluatedStrip(r, truth[r : r + rows], prediction[r : r + rows])
        for r in range(0, len(truth), rows)
    ]


def counted(counts, prediction, truth, rows, columns=1000):
    for strip, core in with_margins(strips_of(prediction, truth, rows), counts.margin, columns):
        counts.add(strip, core)
    return counts


@pytest.mark.long
@pytest.mark.parametrize(("rows", "columns"), [(1000, 1000), (37, 1000), (1000, 41), (5, 4)])
def test_boundary_scores_are_those_of_whole_masks_however_a_scene_is_cut(rows, columns):
    truth, prediction = blobs(0, ignored=0.1), blobs(1)
    prediction[:60] = truth[:60]
    prediction[100:110, 20:60] = 255
    scores = counted(BoundaryCounts(NAMES), prediction, truth, rows, columns).scores()
    assert [s.tolerance for s in scores] == [1, 3, 5]
    for at in scores:
        for index, class_scores in enumerate(at.classes):
            precision, recall, iou = naive_boundary(prediction, truth, index, at.tolerance)
            expected = [part / whole for part, whole in (precision, recall, iou)]
            assert [class_scores.precision, class_scores.recall, class_scores.iou] == pytest.approx(
                expected
            )
            f1 = 2 * expected[0] * expected[1] / (expected[0] + expected[1])
            assert class_scores.f1 == pytest.approx(f1)
            assert 0.1 < class_scores.f1 < 0.99
        assert at.mean_f1 == pytest.approx(np.mean([c.f1 for c in at.classes]))
        assert at.mean_iou == pytest.approx(np.mean([c.iou for c in at.classes]))


def test_a_map_shifted_by_two_pixels_is_right_at_three_and_wrong_at_one():
    truth = np.zeros((60, 60), dtype=np.uint8)
    truth[20:40, 20:40] = 1
    prediction = np.roll(truth, 2, axis=1)
    at_1_px, at_3_px, _ = counted(BoundaryCounts(NAMES[:2]), prediction, truth, 1000).scores()
    assert at_3_px.classes[1].f1 == 1
    assert at_1_px.classes[1].f1 < 0.75
    assert at_1_px.mean_iou < at_3_px.mean_iou < 1


def test_boundary_scores_of_classes_without_borders():
    truth = np.zeros((20, 20), dtype=np.uint8)
    prediction = truth.copy()
    prediction[5:10, 5:10] = 1
    first = counted(BoundaryCounts(NAMES), prediction, truth, 1000).scores()[0]
    in_one = first.classes[1]  # the map alone has it
    assert in_one.precision == 0
    assert np.isnan(in_one.recall)
    assert (in_one.f1, in_one.iou) == (0, 0)
    in_none = first.classes[2]
    assert np.isnan([in_none.precision, in_none.recall, in_none.f1, in_none.iou]).all()
    empty = BoundaryCounts(NAMES).scores()[0]
    assert np.isnan([empty.mean_f1, empty.mean_iou]).all()


def test_counts_of_blocks_add_up_to_those_of_the_scene():
    prediction, truth = blobs(2), blobs(3)
    whole = counted(BoundaryCounts(NAMES), prediction, truth, 1000)
    blocks = counted(BoundaryCounts(NAMES, block=40), prediction, truth, 37, 29)
    assert whole.counts.shape[0] == 1
    assert blocks.counts.shape[0] == 4 * 5
    assert (blocks.counts.sum(axis=0) == whole.counts[0]).all()
    # the block in row 1, column 2 holds what lies in it, borders at its edges included
    here = (slice(40, 80), slice(80, 120))
    rims = near_other_class(truth, 4, 5, "square")[here]
    expected = np.bincount(truth[here][rims], minlength=4)
    assert (blocks.counts[7, 2, 5] == expected).all()


def test_a_scheme_of_more_classes_than_a_machine_word_has_bits():
    random = np.random.default_rng(0)
    labels = ndimage.zoom(random.integers(0, 200, (9, 11)), 8, order=0).astype(np.uint8)
    expected = np.zeros(labels.shape, dtype=bool)
    for index in np.unique(labels):
        expected |= (labels == index) & ndimage.binary_dilation(labels != index, disc(3))
    assert (near_other_class(labels, 200, 3) == expected).all()
    prediction = np.roll(labels, 1, axis=0)
    names = [f"class {n}" for n in range(200)]
    scores = counted(BoundaryCounts(names), prediction, labels, 1000).scores()[0]
    precision, _, iou = naive_boundary(prediction, labels, int(labels[20, 20]), 1)
    class_scores = scores.classes[labels[20, 20]]
    assert (class_scores.precision, class_scores.iou) == pytest.approx(
        (precision[0] / precision[1], iou[0] / iou[1])
    )


def test_eroded_labels_ignore_a_disc_around_each_change_of_class():
    labels = blobs(4, ignored=0.15)
    eroded = eroded_labels(labels, 4, radius=3)
    expected = labels.copy()
    for index in range(4):
        other = (labels != index) & (labels != 255)
        expected[(labels == index) & ndimage.binary_dilation(other, disc(3))] = 255
    assert (eroded == expected).all()
    assert (labels != 255).sum() * 0.3 < (eroded != 255).sum() < (labels != 255).sum()


def test_nothing_is_eroded_at_ignored_pixels_and_at_the_end_of_the_raster():
    labels = np.zeros((20, 20), dtype=np.uint8)
    labels[8:12] = 255
    assert (eroded_labels(labels, 2) == labels).all()


@pytest.mark.parametrize("rows", [1000, 20])
def test_accuracy_by_distance_to_the_nearest_border_of_the_labels(rows):
    truth, prediction = blobs(5, shape=(200, 180), classes=2), blobs(6, shape=(200, 180), classes=2)
    prediction[:100] = truth[:100]
    truth[150:160, 10:50] = 255
    counts = counted(BorderDistanceCounts(), prediction, truth, rows)
    border = np.zeros(truth.shape, dtype=bool)
    for index in (0, 1):
        other = (truth != index) & (truth != 255)
        border |= (truth == index) & ndimage.binary_dilation(other, CROSS)
    away = np.minimum(ndimage.distance_transform_edt(~border), FARTHEST).astype(int)
    for distance in range(FARTHEST + 1):
        here = (away == distance) & (truth != 255)
        assert counts.pixels[distance] == here.sum()
        assert counts.right[distance] == (here & (prediction == truth)).sum()
    assert counts.pixels.sum() == (truth != 255).sum()
    assert len(TOLERANCES) < (counts.pixels > 0).sum()


def test_without_any_border_every_pixel_is_far_from_one():
    truth = np.zeros((8, 8), dtype=np.uint8)
    counts = counted(BorderDistanceCounts(), truth, truth, 3)
    assert counts.pixels[FARTHEST] == counts.right[FARTHEST] == 64
    assert counts.accuracy[FARTHEST] == 1
    assert np.isnan(counts.accuracy[0])
