"""Which value of the training scenes is full brightness, where they don't declare it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.value_scale import EstimatedScale, SceneSample, estimated_scale, scene_sample
from hrrsi.tiling.scene_rows import SceneRows, Tiling

_SCENE_PIXELS = 1 << 17  # so many of each scene have a say


def estimated_training_scale(tiling: Tiling, rows: Iterable[SceneRows]) -> EstimatedScale:
    """Return which value is likely to be full brightness in all training scenes together.

    Args:
        tiling: How scenes are read.
        rows: The work, of which that on training scenes counts.

    Raises:
        HrrsiError: A scene can't be read somewhere.
    """
    images = dict.fromkeys(r.image for r in rows if r.part == "train")
    samples = []
    for image in images:
        with open_scene(
            image, bands=tiling.bands, expected_bands=len(tiling.bands), nodata=tiling.nodata
        ) as scene:
            samples.append(scene_sample(scene))
    thinned = [s.values[:, :: -(-s.values.shape[1] // _SCENE_PIXELS) or 1] for s in samples]
    return estimated_scale(SceneSample(np.concatenate(thinned, axis=1), samples[0].dtype, None))
