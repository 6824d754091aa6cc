"""Error-adjusted areas, against the paper's example and against repeated sampling."""

import numpy as np
import pytest

from hrrsi.evaluation.intervals import class_areas, estimated_shares
from hrrsi.evaluation.scores import ConfusionMatrix

# Olofsson et al. 2014, tables 8 and 9: deforestation, forest gain, stable forest, stable non-forest
NAMES = ("deforestation", "gain", "forest", "non-forest")
COUNTS = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
MAPPED = (200_000, 150_000, 3_200_000, 6_450_000)


def test_the_papers_example():
    areas = class_areas(ConfusionMatrix(NAMES, COUNTS), MAPPED)
    assert areas[0].mapped == pytest.approx(0.02)
    assert 10_000_000 * areas[0].estimated == pytest.approx(235_086, abs=1)
    assert 10_000_000 * areas[0].half_width == pytest.approx(68_418, abs=5)
    users = [(c.users_accuracy, c.users_half_width) for c in areas]
    for estimate, printed in zip(
        users, [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)], strict=True
    ):
        assert estimate == pytest.approx(printed, abs=0.006)
    assert areas[0].producers_accuracy == pytest.approx(0.75, abs=0.005)
    assert areas[0].producers_half_width == pytest.approx(0.21, abs=0.006)


def test_half_widths_are_the_spread_of_repeated_samples():
    """Draw the strata's labels again and again from the estimated shares."""
    counts, mapped = np.array(COUNTS), np.array(MAPPED)
    random = np.random.default_rng(0)
    sampled = counts.sum(axis=1)
    draws = np.stack([
        random.multinomial(n, row / n, size=4000) for n, row in zip(sampled, counts, strict=True)
    ], axis=1)  # fmt: skip
    shares = estimated_shares(draws, MAPPED)
    weights = mapped / mapped.sum()
    hits = np.diagonal(draws, axis1=1, axis2=2) * weights / sampled
    producers = hits / shares
    areas = class_areas(ConfusionMatrix(NAMES, COUNTS), MAPPED)
    for index, area in enumerate(areas):
        assert area.half_width == pytest.approx(1.96 * shares[:, index].std(), rel=0.06)
        spread = 1.96 * producers[:, index].std()
        assert area.producers_half_width == pytest.approx(spread, rel=0.12)
    assert shares.mean(axis=0) == pytest.approx([c.estimated for c in areas], rel=0.02)


def test_a_bias_of_the_map_is_taken_out():
    """A quarter of what is mapped as roof is road; the reverse never happens."""
    matrix = ConfusionMatrix(("roof", "road"), [[75, 25], [0, 100]])
    roof, road = class_areas(matrix, (4000, 6000))
    assert (roof.mapped, roof.estimated) == pytest.approx((0.4, 0.3))
    assert (road.mapped, road.estimated) == pytest.approx((0.6, 0.7))
    assert (roof.users_accuracy, roof.producers_accuracy) == pytest.approx((0.75, 1.0))


def test_what_the_labels_cannot_tell_is_not_a_number():
    matrix = ConfusionMatrix(("roof", "road", "tree"), [[75, 25, 0], [0, 100, 0], [0, 0, 0]])
    unmapped = class_areas(matrix, (4000, 6000, 0))
    assert unmapped[0].estimated == pytest.approx(0.3)  # no tree is mapped: nothing is lacking
    assert unmapped[2].estimated == 0
    unlabelled = class_areas(matrix, (4000, 6000, 10))
    assert all(np.isnan(c.estimated) for c in unlabelled)
    with pytest.raises(ValueError, match="3 classes"):
        class_areas(matrix, (1, 2))
