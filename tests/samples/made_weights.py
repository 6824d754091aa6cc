"""Weights for tests: a network with random numbers whose maps show every class."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from samples.repository import REPOSITORY

from hrrsi.labels.scheme import load_scheme
from hrrsi.networks.architecture import LogitAlignment
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights


def scene_pixels() -> np.ndarray:
    """Real pixels, (256, 320, 3) uint8."""
    file = REPOSITORY / "examples" / "dubai" / "tile1" / "images" / "image_part_007.jpg"
    return np.asarray(Image.open(file).convert("RGB"))


def meta(
    bands: int = 3, resolution: float | None = None, alignment: LogitAlignment = "corners"
) -> ModelMeta:
    scheme = load_scheme("dubai")
    return ModelMeta(
        model="ued_bes_sfm",
        classes=scheme.class_names,
        colours=[tuple(c) for c in scheme.colours],
        bands=list(range(1, bands + 1)),
        dtype="uint8",
        scale=255.0,
        mean=[0.5 + 0.01 * band for band in range(bands)],
        std=[0.3 + 0.01 * band for band in range(bands)],
        resolution=resolution,
        scheme="dubai",
        training={"data": "none"},
        scores={},
        licence="none",
        logit_alignment=alignment,
    )


def save_made_weights(
    path: Path,
    *,
    bands: int = 3,
    resolution: float | None = None,
    alignment: LogitAlignment = "corners",
) -> Path:
    torch.manual_seed(5)
    described = meta(bands, resolution, alignment)
    network = build_network("ued_bes_sfm", len(described.classes), bands).eval()
    pixels = scene_pixels().astype(np.float32) / 255
    stack = np.concatenate([pixels, pixels[..., :1]], axis=-1)[..., :bands]
    image = (stack - np.asarray(described.mean)) / np.asarray(described.std)
    with torch.no_grad():
        # random weights map everything to one class: give each class' logits mean 0 and deviation 1
        for layer in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            layer.train()
            layer.momentum = None
        batch = torch.from_numpy(np.moveaxis(image, -1, 0)[None].astype(np.float32))
        network(batch)
        network.eval()
        logits = network(batch)["lbl"]
        last = network.seg_out[-1]
        mean, deviation = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
        last.weight /= deviation[:, None, None, None]
        last.bias.copy_((last.bias - mean) / deviation)
    save_weights(network.state_dict(), described, path)
    return path
