"""Exports weights for the peers that `predict_speed.py` times.

Writes the network's segmentation head as ONNX, one 512 px window at a time:
GEODEEP is what `hrrsi export` writes; BARE takes normalised pixels and gives logits, as the
original's network does, and is PyTorch's own export (which needs onnxscript).

    python benchmarks/exported_graph.py WEIGHTS GEODEEP.onnx BARE.onnx
"""

import sys
import warnings
from pathlib import Path

import onnx
import torch

import hrrsi
from hrrsi.networks.segmentation import UED
from hrrsi.networks.weights_reading import load_model

WINDOW = 512
RESOLUTION = 0.3  # m, that of the rasters that are timed: GeoDeep would resample others


class Logits(torch.nn.Module):
    """Normalised pixels in, logits out."""

    def __init__(self, network: UED) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return (1, classes, H, W) logits."""
        return self.network.segment(image)


def export(module: torch.nn.Module, bands: int, path: Path) -> onnx.ModelProto:
    image = torch.zeros(1, bands, WINDOW, WINDOW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (image,),
            str(path),
            input_names=["input"],
            output_names=["output"],
            opset_version=18,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return onnx.load(path)


def main() -> None:
    weights, geodeep, bare = sys.argv[1:]
    network = load_model(weights)
    export(Logits(network), network.meta.band_count, Path(bare))
    options = hrrsi.ExportOptions(window=WINDOW, overlap=WINDOW // 10, resolution=RESOLUTION)
    hrrsi.export(weights, geodeep, options=options, overwrite=True)


if __name__ == "__main__":
    main()
