"""Reliability curve and ECE, against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.scene_counts import BINS, ReliabilityCounts


def scored_pixels(seed, pixels=4000, classes=4):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(pixels, classes)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([random.choice(classes, p=p**0.5 / (p**0.5).sum()) for p in shares])
    return shares.astype(np.float32), truth.astype(np.uint8)


def strip(prediction, truth, confidence):
    return EvaluatedStrip(0, truth[None], prediction[None], confidence[None])


def test_the_expected_calibration_error_is_torchmetrics_one():
    shares, truth = scored_pixels(0)
    counts = ReliabilityCounts()
    for part in (slice(0, 1500), slice(1500, None)):  # in strips
        prediction = shares[part].argmax(axis=1).astype(np.uint8)
        counts.add(strip(prediction, truth[part], shares[part].max(axis=1)))
    reference = MulticlassCalibrationError(4, n_bins=BINS, norm="l1")
    expected = float(reference(torch.from_numpy(shares), torch.from_numpy(truth).long()))
    assert counts.expected_calibration_error == pytest.approx(expected, abs=1e-6)
    assert expected > 0.05


def test_a_bin_of_the_reliability_curve_holds_its_pixels_mean_confidence_and_accuracy():
    shares, truth = scored_pixels(1)
    confidence, prediction = shares.max(axis=1), shares.argmax(axis=1).astype(np.uint8)
    counts = ReliabilityCounts()
    counts.add(strip(prediction, truth, confidence))
    inside = (confidence >= 0.6) & (confidence < 0.65)
    assert counts.pixels[12] == inside.sum()
    assert counts.confidence[12] == pytest.approx(confidence[inside].mean(), abs=1e-6)
    assert counts.accuracy[12] == pytest.approx((prediction == truth)[inside].mean())


def test_pixels_without_label_prediction_or_confidence_are_not_counted():
    counts = ReliabilityCounts()
    counts.add(
        strip(
            np.array([0, 255, 1, 1], np.uint8),
            np.array([255, 0, 1, 1], np.uint8),
            np.array([0.9, 0.9, np.nan, 1.0], np.float32),
        )
    )
    assert counts.pixels.sum() == counts.pixels[BINS - 1] == 1
    assert counts.expected_calibration_error == 0
    other = ReliabilityCounts()
    other.merge(counts)
    assert other.right[BINS - 1] == 1
    assert np.isnan(ReliabilityCounts().expected_calibration_error)
