"""What `benchmarks/camera_effects.py` makes of the scores of its runs."""

from itertools import product

import numpy as np
import pytest
from camera_effects import effects, screening_plan


def test_each_change_stands_evenly_beside_each_other_one() -> None:
    plan = screening_plan()
    assert plan.shape == (12, 11)
    assert not plan[-1].any()  # a run without any
    for first in range(11):
        for second in range(first):
            for has in product((False, True), repeat=2):
                assert (plan[:, [first, second]] == has).all(axis=1).sum() == 3


def test_what_a_change_is_worth_is_told_from_all_others() -> None:
    plan, random = screening_plan(), np.random.default_rng(0)
    worth = np.array([5, -3, *[0] * 9])
    noise = random.normal(0, 0.2, 12)
    measured, margin = effects(plan, 40 + plan @ worth + noise)
    assert measured == pytest.approx(worth, abs=0.5)
    assert 0.05 < margin < 2
    _, of_chance = effects(plan, 40 + 10 * noise)
    assert of_chance > 5 * margin
