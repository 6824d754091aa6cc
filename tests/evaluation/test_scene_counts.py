"""What is counted of a scene, whatever its shape."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.scene_counts import SceneCounts

NAMES = ("roof", "road", "tree")


def classes_of(seed, shape):
    """Return class indices in patches of irregular shape."""
    random = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(random.normal(size=shape), 5) for _ in NAMES]
    return np.argmax(fields, axis=0).astype(np.uint8)


def counted(prediction, truth, confidence, rows):
    counts = SceneCounts("scene", NAMES, pixel_areas=np.full(len(truth), 0.25))
    parts = [slice(row, row + rows) for row in range(0, len(truth), rows)]
    counts.add(EvaluatedStrip(p.start, truth[p], prediction[p], confidence[p]) for p in parts)
    return counts


@pytest.mark.long
def test_a_wide_scene_counts_as_it_does_when_turned():
    truth, prediction = classes_of(0, (90, 4500)), classes_of(1, (90, 4500))
    prediction[:, 1900:2200] = truth[:, 1900:2200]  # where the parts of strips meet
    truth[20:40, 2000:2100] = prediction[50:70, 4080:4110] = 255
    confidence = np.random.default_rng(2).random(truth.shape).astype(np.float32)
    wide = counted(prediction, truth, confidence, 37)
    high = counted(prediction.T, truth.T, confidence.T, 37)
    for kind in ("full", "eroded"):
        assert (wide.matrices[kind].counts == high.matrices[kind].counts).all()
        places = high.matrices[kind].places
        assert wide.matrices[kind].places == tuple((column, row) for row, column in places)
    assert (wide.boundaries.counts == high.boundaries.counts).all()
    assert (wide.border_distances.pixels == high.border_distances.pixels).all()
    assert (wide.border_distances.right == high.border_distances.right).all()
    assert (wide.reliability.pixels == high.reliability.pixels).all()
    assert (wide.reliability.right == high.reliability.right).all()
    assert wide.reliability.confidence == pytest.approx(high.reliability.confidence)
    assert wide.mapped.pixels == high.mapped.pixels
    assert wide.mapped.areas == pytest.approx(high.mapped.areas)
    assert wide.ignored_pixels == high.ignored_pixels == 20 * 100


@pytest.mark.slow
def test_what_a_wide_strip_takes_is_hardly_more_than_itself():
    width, rows = 30_000, 128
    wide_row = np.repeat(np.arange(width // 40, dtype=np.uint8) % 3, 40)
    labels = np.broadcast_to(wide_row, (rows, width))
    counts = SceneCounts("scene", NAMES)
    tracemalloc.start()
    try:
        counts.add(EvaluatedStrip(row, labels, labels) for row in range(0, 3 * rows, rows))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # labels and predictions of this strip and the margin above, twice while they are joined
    assert peak < 8 * labels.size
