"""Intervals and the paired test over blocks of scenes."""

from functools import partial

import numpy as np
import pytest

from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.intervals import Difference, Interval, score_differences, score_intervals
from hrrsi.evaluation.options import ALL, PROTOCOL_NAMES, named_protocol
from hrrsi.evaluation.scene_counts import BlockMatrices
from hrrsi.evaluation.scores import ConfusionMatrix, named_scores, score_support

NAMES = ("roof", "road", "clutter")
SCORES = partial(named_scores, classes=NAMES, protocol=ALL)


def blocks_of(seed, count=60, right=0.8, pixels=1000):
    """Return matrices of blocks whose share of right pixels varies from block to block."""
    random = np.random.default_rng(seed)
    shares = np.clip(random.normal(right, 0.1, count), 0, 1)
    matrices = np.zeros((count, 3, 3), dtype=np.int64)
    for matrix, share in zip(matrices, shares, strict=True):
        for true in range(3):
            hits = random.binomial(pixels, share)
            matrix[true, true] += hits
            matrix[(true + 1) % 3, true] += pixels - hits
    return matrices


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_scores_of_many_matrices_are_those_of_each(name):
    protocol = named_protocol(name, NAMES)
    matrices = blocks_of(0)
    matrices[0] = 0  # nothing at all
    matrices[1, 0], matrices[1, :, 0] = 0, 0  # a class in neither truth nor prediction
    matrices[2, 0] = 0  # in the truth alone
    matrices[3] = np.diag([5, 0, 0])  # one class alone
    scores = named_scores(matrices, NAMES, protocol)
    for number, counts in enumerate(matrices):
        expected = ConfusionMatrix(NAMES, counts).scores(protocol)
        for key, value in (
            ("OA", expected.overall_accuracy),
            ("mF1", expected.mean_f1),
            ("mIoU", expected.mean_iou),
            ("kappa", expected.kappa),
        ):
            assert scores[key][number] == pytest.approx(value, nan_ok=True), (key, number)
        for c in expected.classes:
            if f"IoU {c.name}" in scores:
                assert scores[f"IoU {c.name}"][number] == pytest.approx(c.iou, nan_ok=True)
                assert scores[f"F1 {c.name}"][number] == pytest.approx(c.f1, nan_ok=True)


def test_blocks_add_up_to_the_scene_however_it_is_cut():
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (70, 90)).astype(np.uint8)
    prediction = random.integers(0, 3, (70, 90)).astype(np.uint8)
    truth[:9, :40] = 255
    blocks = BlockMatrices(NAMES, block=32)
    for row in range(0, 70, 13):
        for column in (0, 50):
            part = (slice(row, row + 13), slice(column, column + 50))
            strip = EvaluatedStrip(row, truth[part], prediction[part], first_column=column)
            blocks.add(strip, strip.truth)
    whole = ConfusionMatrix(NAMES)
    whole.add(prediction, truth)
    assert (blocks.matrix.counts == whole.counts).all()
    assert blocks.places == tuple((r, c) for r in range(3) for c in range(3))
    corner = ConfusionMatrix(NAMES)
    corner.add(prediction[64:, 32:64], truth[64:, 32:64])
    assert (blocks.counts[blocks.places.index((2, 1))] == corner.counts).all()


@pytest.mark.slow
@pytest.mark.long
def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of many samples of blocks from one known population, about 95 % of the intervals cover it."""
    population = blocks_of(1, count=4000)
    truth = named_scores(population.sum(axis=0), NAMES, ALL)["mIoU"]
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(120):
        sample = population[random.integers(0, len(population), 50)]
        interval = score_intervals(sample, SCORES)["mIoU"]
        assert interval.low < interval.value < interval.high
        covered += interval.low <= truth <= interval.high
    assert 0.86 < covered / 120 < 1


def test_more_blocks_give_narrower_intervals_and_empty_ones_change_nothing():
    of_20, of_500 = (score_intervals(blocks_of(3, n), SCORES)["OA"] for n in (20, 500))
    assert of_500.high - of_500.low < (of_20.high - of_20.low) / 2
    padded = np.concatenate([blocks_of(3, 20), np.zeros((30, 3, 3), dtype=np.int64)])
    assert score_intervals(padded, SCORES)["OA"] == of_20


@pytest.mark.parametrize(("blocks", "is_known"), [(1, False), (5, False), (6, True)])
def test_few_blocks_give_no_interval(blocks, is_known):
    interval = score_intervals(blocks_of(4, blocks), SCORES)["OA"]
    assert interval.value > 0.5
    assert (not np.isnan([interval.low, interval.high]).any()) == is_known


def test_a_class_that_few_blocks_hold_has_no_interval():
    blocks = blocks_of(4, 20)
    blocks[5:, 2, :] = blocks[5:, :, 2] = 0  # no clutter, but in five blocks
    intervals = score_intervals(blocks, SCORES, score_support(blocks, NAMES, ALL))
    assert intervals["IoU clutter"].value > 0.3
    assert np.isnan(intervals["IoU clutter"].low)
    assert np.isnan(intervals["mIoU"].low)  # a third of it rests on these five
    assert intervals["IoU road"].low < intervals["IoU road"].value < intervals["IoU road"].high


def test_blocks_without_a_pixel_that_counts_tell_nothing():
    blocks = blocks_of(4, 20)
    blocks[5:] = 0
    for name, held in (("all", 5), ("no-clutter", 4)):
        protocol = named_protocol(name, NAMES)
        support = score_support(blocks, NAMES, protocol)
        assert support["OA"] == support["kappa"] == held
        scores = partial(named_scores, classes=NAMES, protocol=protocol)
        intervals = score_intervals(blocks, scores, support)
        assert intervals["OA"].value > 0.5
        assert np.isnan([intervals[name].low for name in ("OA", "kappa", "mIoU")]).all()
        blocks[4, :2] = blocks[4, :, :2] = 0  # clutter alone


def test_means_of_all_draws_are_over_the_same_classes():
    blocks = blocks_of(4, 20)
    blocks[:, 2, :] = blocks[:, :, 2] = 0
    blocks[:6, 2, 2], blocks[:6, 0, 2] = 30, 970  # clutter, nearly always wrong, in six blocks
    required = blocks.sum(axis=(0, 1)) > 0
    scores = partial(named_scores, classes=NAMES, protocol=ALL, required_classes=required)
    interval = score_intervals(blocks, scores, score_support(blocks, NAMES, ALL))["mIoU"]
    without = blocks[6:].sum(axis=0)
    assert np.isnan(scores(without)["mIoU"])  # else the mean of two good classes
    assert interval.low < interval.value < interval.high < SCORES(without)["mIoU"] - 0.1


def test_a_class_that_is_only_wrong_is_so_in_all_draws():
    blocks = blocks_of(4, 30)
    blocks[:, 2, :] = blocks[:, :, 2] = 0
    blocks[3, 2, 0] = 20  # stray pixels of clutter, which no truth holds
    matrix = blocks.sum(axis=0)
    true, predicted = matrix.sum(axis=0) > 0, matrix.sum(axis=1) > 0
    scores = partial(
        named_scores,
        classes=NAMES,
        protocol=ALL,
        required_classes=true,
        wrong_classes=predicted & ~true,
    )
    support = score_support(blocks, NAMES, ALL)
    for name in ("mIoU", "mF1"):
        interval = score_intervals(blocks, scores, support)[name]
        assert interval.value == pytest.approx(float(SCORES(matrix[None])[name][0]))
        assert interval.low < interval.value < interval.high < interval.low + 0.1


def test_what_has_no_figure_has_no_interval():
    blocks = blocks_of(4, 30)
    blocks[1:, 2] = 0  # a third of the draws are without clutter

    def scores(sums):
        kappa = np.where(sums[:, 2].any(axis=-1), np.nan, 0.8)  # defined without clutter alone
        return {"kappa": kappa}

    interval = score_intervals(blocks, scores)["kappa"]
    assert np.isnan([interval.value, interval.low, interval.high]).all()


def test_false_predictions_of_a_class_tell_nothing_of_it():
    blocks = blocks_of(4, 20)
    blocks[1:, :, 2] = 0  # clutter in one block, but drawn in all
    support = score_support(blocks, NAMES, ALL)
    assert support["IoU clutter"] == support["mIoU"] == 1
    assert support["IoU road"] == support["OA"] == 20
    blocks[:, :, 2] = 0  # never true: all that draw it tell
    drawn = int(blocks[:, 2].any(axis=1).sum())
    assert score_support(blocks, NAMES, ALL)["IoU clutter"] == drawn > 15


def test_blocks_in_which_nothing_was_counted_are_told_apart_by_nothing():
    nothing = np.zeros((4, 3, 3), dtype=np.int64)
    difference = score_differences(nothing, nothing, SCORES)["mIoU"]
    assert np.isnan([difference.interval.value, difference.interval.low, difference.p]).all()


def test_a_difference_needs_both_its_interval_and_its_test():
    inside, above = Interval(0.01, -0.01, 0.03), Interval(0.02, 0.01, 0.03)
    assert Difference(above, 0.01).is_significant
    assert Difference(Interval(-0.02, -0.03, -0.01), 0.01).is_significant
    for interval, p in ((inside, 0.01), (above, 0.13), (Interval(0.02, np.nan, np.nan), 0.01)):
        assert not Difference(interval, p).is_significant
    assert not Difference(above, np.nan).is_significant


def test_a_small_gain_in_every_block_is_told_from_none():
    first = blocks_of(5, right=0.8)
    better = first.copy()
    moved = first[:, 1, 0] // 20  # a twentieth of one kind of error is right now
    better[:, 1, 0] -= moved
    better[:, 0, 0] += moved
    gain = score_differences(first, better, SCORES)["OA"]
    assert 0 < gain.interval.low < gain.interval.value < gain.interval.high < 0.01
    assert gain.p < 0.01
    # unpaired, the same gain drowns in what blocks differ by
    alone = score_intervals(first, SCORES)["OA"]
    assert alone.high - alone.low > 3 * gain.interval.value
    same = score_differences(first, first, SCORES)["mIoU"]
    assert (same.interval.value, same.interval.low, same.interval.high, same.p) == (0, 0, 0, 1)


@pytest.mark.slow
def test_p_values_of_maps_that_are_equally_good_are_spread_evenly():
    random = np.random.default_rng(6)
    p_values = []
    for seed in range(100):
        first, second = blocks_of(1000 + seed, 30), blocks_of(5000 + seed, 30)
        swap = random.integers(0, 2, 30).astype(bool)[:, None, None]
        blocks_a, blocks_b = np.where(swap, second, first), np.where(swap, first, second)
        p_values.append(score_differences(blocks_a, blocks_b, SCORES)["OA"].p)
    assert 0.3 < np.mean(p_values) < 0.7
    assert np.mean(np.array(p_values) < 0.05) < 0.15


def test_maps_of_other_blocks_are_not_compared():
    with pytest.raises(ValueError, match="differ"):
        score_differences(blocks_of(0, 4), blocks_of(0, 5), SCORES)
