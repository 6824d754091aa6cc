"""The reference that `hrrsi predict` is timed against: how the original maps a scene.

Eager PyTorch in float32, windows of 512 px without overlap, four at a time, the whole image in
memory, the output allocated once, the argmax of the segmentation map, nothing for debugging.
Prints the seconds from opening the scene to the closed map: imports and weights are not counted.

    python benchmarks/original_way.py SCENE WEIGHTS OUT
"""

import json
import sys
import time

import numpy as np
import rasterio
import torch

from hrrsi.networks.weights_reading import load_model

WINDOW = 512
BATCH = 4


def window_starts(length: int) -> list[int]:
    starts = list(range(0, length - WINDOW + 1, WINDOW))
    return starts if length % WINDOW == 0 else [*starts, length - WINDOW]


@torch.no_grad()
def map_scene(scene: str, network: torch.nn.Module, out: str) -> None:
    with rasterio.open(scene) as source:
        image = source.read()
        profile = {"crs": source.crs, "transform": source.transform}
    image = image.astype(np.float32) / np.float32(255)
    image -= np.asarray(network.meta.mean, dtype=np.float32)[:, None, None]
    image /= np.asarray(network.meta.std, dtype=np.float32)[:, None, None]
    _, height, width = image.shape
    labels = np.empty((height, width), dtype=np.uint8)
    places = [(row, col) for row in window_starts(height) for col in window_starts(width)]
    for first in range(0, len(places), BATCH):
        batch = places[first : first + BATCH]
        windows = np.stack([image[:, r : r + WINDOW, c : c + WINDOW] for r, c in batch])
        classes = network(torch.from_numpy(windows))["lbl"].argmax(dim=1).numpy()
        for (row, col), window_labels in zip(batch, classes, strict=True):
            # where the last window moved inward, the pixels of the one before stay
            top, left = -(-row // WINDOW) * WINDOW, -(-col // WINDOW) * WINDOW
            labels[top : row + WINDOW, left : col + WINDOW] = window_labels[
                top - row :, left - col :
            ]
    with rasterio.open(
        out,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=1,
        dtype="uint8",
        compress="lzw",
        **profile,
    ) as written:
        written.write_colormap(1, dict(enumerate(network.meta.colours)))
        written.write(labels, 1)


if __name__ == "__main__":
    network = load_model(sys.argv[2])
    start = time.perf_counter()
    map_scene(sys.argv[1], network, sys.argv[3])
    print(json.dumps({"seconds": time.perf_counter() - start}))
