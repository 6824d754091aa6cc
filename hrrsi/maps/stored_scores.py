"""Confidences and class probabilities as files hold them: in bytes, or in single precision."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hrrsi.labels.scheme import IGNORE_INDEX

ScoreType = Literal["uint8", "float32"]

SCORE_STEPS = 250  # 1 in the files of uint8; a step is 0.004


def stored_scores(
    scores: npt.NDArray[Any], labels: npt.NDArray[np.uint8], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return scores as files hold them.

    Args:
        scores: (..., rows, width) float in [0, 1], or uint8 in steps of 0.004 (250 is 1).
        labels: (rows, width), 255 where there is no data.
        dtype: ``uint8`` or ``float32``.

    Returns:
        (..., rows, width): uint8 in steps of 0.004 with 255 where there is no data, or float32
        in [0, 1] with NaN there.
    """
    given_as_steps = scores.dtype == np.uint8
    empty = labels == IGNORE_INDEX
    if np.dtype(dtype) == np.uint8:
        stored = scores.copy() if given_as_steps else _steps(scores)
        stored[..., empty] = IGNORE_INDEX
        return stored
    values = scores / np.float32(SCORE_STEPS) if given_as_steps else scores
    stored = values.astype(np.float32)
    stored[..., empty] = np.nan
    return stored


def empty_score(dtype: npt.DTypeLike) -> float:
    """Return what stands where there is no data: 255 among bytes, else NaN."""
    return IGNORE_INDEX if np.dtype(dtype) == np.uint8 else np.nan


def empty_scores(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return stored scores of pixels without data."""
    return np.full(shape, empty_score(dtype), dtype=dtype)


def _steps(scores: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    scaled = scores * np.float32(SCORE_STEPS)
    scaled += np.float32(0.5)
    # rounding of sums may put a probability a hair outside of [0, 1]
    steps: npt.NDArray[np.uint8] = np.clip(scaled, 0, SCORE_STEPS, out=scaled).astype(np.uint8)
    return steps
