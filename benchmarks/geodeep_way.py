"""How GeoDeep maps a scene, for `predict_speed.py`: its Python API, then a raster of its mask.

Prints the seconds from the call to the closed map: imports are not counted.

    python benchmarks/geodeep_way.py SCENE MODEL.onnx OUT
"""

import json
import sys
import time

import rasterio
from geodeep import segment


def map_scene(scene: str, model: str, out: str) -> None:
    labels = segment(scene, model, output_type="raw")
    with rasterio.open(scene) as source:
        profile = {"crs": source.crs, "transform": source.transform}
    height, width = labels.shape
    profile |= {"driver": "GTiff", "count": 1, "dtype": "uint8", "compress": "lzw"}
    with rasterio.open(out, "w", height=height, width=width, **profile) as written:
        written.write(labels, 1)


if __name__ == "__main__":
    start = time.perf_counter()
    map_scene(*sys.argv[1:])
    print(json.dumps({"seconds": time.perf_counter() - start}))
