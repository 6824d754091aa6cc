"""Exports weights for the peers that `predict_speed.py` times, with PyTorch's own exporter.

Writes the network's segmentation head as ONNX, one 512 px window at a time:
GEODEEP takes pixels divided by 255 and gives probabilities, with the metadata that GeoDeep and
Deepness read; BARE takes normalised pixels and gives logits, as the original's network does.

    python benchmarks/exported_graph.py WEIGHTS GEODEEP.onnx BARE.onnx
"""

import json
import sys
import warnings
from pathlib import Path

import onnx
import torch

from hrrsi.networks.segmentation import UED
from hrrsi.networks.weights_reading import load_model

WINDOW = 512
RESOLUTION_CM = 30  # that of the rasters that are timed: GeoDeep would resample others


class Probabilities(torch.nn.Module):
    """Pixels from 0 to 1 in, class probabilities out."""

    def __init__(self, network: UED) -> None:
        super().__init__()
        self.network = network
        gain = 255 / network.meta.scale
        for name in ("mean", "std"):
            values = torch.tensor(network.meta[name]).view(1, -1, 1, 1) / gain
            self.register_buffer(name, values)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return (1, classes, H, W) probabilities."""
        return self.network.segment((image - self.mean) / self.std).softmax(dim=1)


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
    bands = network.meta.band_count
    export(Logits(network), bands, Path(bare))
    model = export(Probabilities(network), bands, Path(geodeep))
    described = {
        "model_type": "Segmentor",
        "class_names": {str(i): name for i, name in enumerate(network.meta.classes)},
        "resolution": RESOLUTION_CM,
        "tiles_size": WINDOW,
        "tiles_overlap": 10,
        "seg_thresh": 0,
        "seg_small_segment": 0,
    }
    onnx.helper.set_model_props(model, {k: json.dumps(v) for k, v in described.items()})
    onnx.save(model, geodeep)


if __name__ == "__main__":
    main()
