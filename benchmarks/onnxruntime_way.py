"""The original's way with ONNX Runtime as its engine, for `predict_speed.py`.

The same windows, the whole image in memory, one window at a time, the argmax in NumPy. Prints the
seconds from opening the scene to the closed map: imports and loading the graph are not counted.

    python benchmarks/onnxruntime_way.py SCENE WEIGHTS MODEL.onnx OUT
"""

import json
import sys
import time

import numpy as np
import onnxruntime
import rasterio

from hrrsi.networks.weights_reading import read_meta

WINDOW = 512


def window_starts(length: int) -> list[int]:
    starts = list(range(0, length - WINDOW + 1, WINDOW))
    return starts if length % WINDOW == 0 else [*starts, length - WINDOW]


def map_scene(scene: str, weights: str, session: onnxruntime.InferenceSession, out: str) -> None:
    meta = read_meta(weights)
    with rasterio.open(scene) as source:
        image = source.read()
        profile = {"crs": source.crs, "transform": source.transform}
    image = image.astype(np.float32) / np.float32(255)
    image -= np.asarray(meta.mean, dtype=np.float32)[:, None, None]
    image /= np.asarray(meta.std, dtype=np.float32)[:, None, None]
    _, height, width = image.shape
    labels = np.empty((height, width), dtype=np.uint8)
    for row in window_starts(height):
        for col in window_starts(width):
            window = np.ascontiguousarray(image[None, :, row : row + WINDOW, col : col + WINDOW])
            (logits,) = session.run(None, {"input": window})
            classes = logits[0].argmax(axis=0)
            # where the last window moved inward, the pixels of the one before stay
            top, left = -(-row // WINDOW) * WINDOW, -(-col // WINDOW) * WINDOW
            labels[top : row + WINDOW, left : col + WINDOW] = classes[top - row :, left - col :]
    profile |= {"driver": "GTiff", "count": 1, "dtype": "uint8", "compress": "lzw"}
    with rasterio.open(out, "w", height=height, width=width, **profile) as written:
        written.write_colormap(1, dict(enumerate(meta.colours)))
        written.write(labels, 1)


if __name__ == "__main__":
    scene, weights, model, out = sys.argv[1:]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    start = time.perf_counter()
    map_scene(scene, weights, session, out)
    print(json.dumps({"seconds": time.perf_counter() - start}))
