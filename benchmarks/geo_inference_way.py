"""How geo-inference maps a scene with Dask, for `cluster_peer.py`: its Python API, on processors.

Prints the seconds from the call to the closed map, without imports and loading the network, and
where the map is. It runs in an environment of its own (`cluster_peer.py` makes it).

    ENVIRONMENT/bin/python benchmarks/geo_inference_way.py SCENE NETWORK.pt FOLDER CLASSES THREADS
"""

import json
import sys
import time
from pathlib import Path

import torch
from geo_inference.geo_inference import GeoInference


def main() -> None:
    scene, network, folder, classes, threads = sys.argv[1:]
    torch.set_num_threads(1)  # Dask's threads are as many as the others have
    mapper = GeoInference(network, folder, device="cpu", num_classes=int(classes))
    start = time.perf_counter()
    name = mapper(scene, workers=int(threads))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "map": str(Path(folder, name))}))


if __name__ == "__main__":
    main()
