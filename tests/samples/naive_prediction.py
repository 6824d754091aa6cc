"""Sliding-window prediction on a canvas of the scene's size, as simply as it can be written."""

import numpy as np
import torch

from hrrsi.prediction.sliding_window import mirror_filled


def starts(length: int, window: int, stride: int) -> list[int]:
    result = [0]
    while result[-1] + window < length:
        result.append(min(result[-1] + stride, length - window))
    return result


def ramp(length: int, overlap: int, start: int, previous_end: int, end_of_scene: int) -> np.ndarray:
    """Weight of each pixel of a window along one axis, 0 where the window only gives context."""
    weights = np.zeros(length)
    for i in range(length):
        place = start + i
        if previous_end and place < previous_end - overlap:
            continue
        weights[i] = 1
        if previous_end and place < previous_end:
            t = (place - (previous_end - overlap) + 0.5) / overlap
            weights[i] *= (1 - np.cos(np.pi * t)) / 2
        if start + length < end_of_scene and i >= length - overlap:
            t = (length - i - 0.5) / overlap
            weights[i] *= (1 - np.cos(np.pi * t)) / 2
    return weights


def naive_labels(
    values: np.ndarray, valid: np.ndarray, network: torch.nn.Module, window: int, overlap: int
) -> np.ndarray:
    """All windows' logits added up on a canvas of the scene's size, then the argmax."""
    meta = network.meta
    mean, std = (np.array(meta[k])[:, None, None] for k in ("mean", "std"))
    _, height, width = values.shape
    canvas = np.zeros((len(meta["classes"]), height, width))
    h, w = min(window, height), min(window, width)
    row_end = 0
    for row in starts(height, h, window - overlap):
        column_end = 0
        for column in starts(width, w, window - overlap):
            place = np.s_[row : row + h, column : column + w]
            part = values[:, *place]
            if valid[place].any() and not valid[place].all():
                part = mirror_filled(part, valid[place])  # has a test of its own
            beyond = ((0, 0), (0, window - h), (0, window - w))
            part = (np.pad(part, beyond, "symmetric") / 255 - mean) / std
            with torch.no_grad():
                logits = network(torch.from_numpy(part[None].astype(np.float32)))["lbl"]
            weights = np.outer(
                ramp(h, overlap, row, row_end, height), ramp(w, overlap, column, column_end, width)
            )
            canvas[:, *place] += logits[0].numpy()[:, :h, :w] * weights
            column_end = column + w
        row_end = row + h
    return np.where(valid, canvas.argmax(0), 255)
