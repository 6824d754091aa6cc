"""Made weights, datasets, scenes and maps, and `hrrsi eval` of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import torch
from PIL import Image
from samples.class_borders import blobs, disc
from scipy import ndimage
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.tiling.dataset import DatasetDescription, SplitContent

CLASSES = ["water", "clutter", "tree"]


COLOURS = [(0, 0, 255), (255, 0, 0), (0, 255, 0)]


MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


SIZE = 64


SCHEME = """
name: mine
classes:
  - {name: water, colour: [0, 0, 255]}
  - {name: clutter, colour: [255, 0, 0]}
  - {name: tree, colour: [0, 255, 0]}
ignored:
  - {name: border, colour: [0, 0, 0]}
images: ["{scene}.tif"]
labels: ["{scene}_label.png"]
eroded_labels: ["{scene}_eroded.png"]
splits:
  first: {train: [a], val: [b], test: [c, d]}
"""


def evaluated(*arguments: object):
    return CliRunner().invoke(app, ["eval", *map(str, arguments), "--device", "cpu"])


def scored(*arguments: object) -> dict:
    result = evaluated(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def error_of(*arguments: object) -> str:
    result = evaluated(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def write_weights(path: Path, classes: list[str], **changes: object) -> Path:
    torch.manual_seed(3)
    network = build_network("ued", len(classes))
    with torch.no_grad():
        # classes alternate over an image of noise instead of one winning everywhere
        network(torch.randn(4, 3, SIZE, SIZE))
        last = network.final_out[-1].weight
        last -= last.mean(dim=0, keepdim=True)
        last[1:] -= last[1:].mean(dim=1, keepdim=True)
    meta = ModelMeta(
        model="ued",
        classes=classes,
        colours=[COLOURS[i % 3] for i in range(len(classes))],
        bands=[1, 2, 3],
        dtype="uint8",
        scale=255.0,
        mean=MEAN,
        std=STD,
        resolution=None,
        scheme="mine",
        training={"scenes": ["a"]},
        scores={},
        licence="",
    )
    save_weights(network.state_dict(), replace(meta, **changes), path)
    return path


def naive_labels(weights: Path, image: np.ndarray) -> np.ndarray:
    """Predict (H, W, 3) uint8 as indices of CLASSES, one window of the image's size."""
    network = load_model(weights)
    values = (image / 255.0 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        logits = network(torch.from_numpy(values.transpose(2, 0, 1)[None]).float())["lbl"][0]
    names = [network.meta.classes[i] for i in logits.argmax(0).ravel().tolist()]
    return np.array([CLASSES.index(n) for n in names]).reshape(image.shape[:2])


def naive_matrix(pairs) -> list[list[int]]:
    counts = [[0] * len(CLASSES) for _ in CLASSES]
    for prediction, truth in pairs:
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t != 255:
                counts[p][t] += 1
    assert sum(any(row) for row in counts) > 1, "the test proves little if one class always wins"
    return counts


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """Coarse random blocks with fine noise: (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 200, (height // 8 + 1, width // 8 + 1, 3))
    coarse = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return (coarse + random.integers(0, 56, (height, width, 3))).astype(np.uint8)


def labels(seed: int, height: int, width: int) -> np.ndarray:
    values = np.array([0, 1, 2, 255], dtype=np.uint8)
    return np.random.default_rng(seed + 100).choice(values, (height, width))


def write_dataset(folder: Path, splits: dict[str, int], *, classes: list[str] = CLASSES) -> Path:
    contents = {}
    for split, patches in splits.items():
        for kind in ("image", "label"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(patches):
            Image.fromarray(noise(i, SIZE, SIZE)).save(folder / split / "image" / f"p{i}.png")
            label = Image.fromarray(labels(i, SIZE, SIZE), mode="P")
            label.putpalette([v for colour in COLOURS for v in colour] + [0] * 759)
            label.save(folder / split / "label" / f"p{i}.png")
        contents[split] = SplitContent(
            scenes=[f"{split}_scene"],
            patches=patches,
            class_pixels=[0] * len(classes),
            ignored_pixels=0,
        )
    description = DatasetDescription(
        scheme="mine",
        classes=classes,
        colours=COLOURS,
        bands=[1, 2, 3],
        dtype="uint8",
        scale=255.0,
        mean=[0.1, 0.2, 0.3],  # the weights' normalisation counts, not the dataset's
        std=[1.0, 1.0, 1.0],
        statistics="measured",
        class_frequencies=[0.4, 0.3, 0.3],
        resolution="unknown",
        patch_size=SIZE,
        stride=SIZE,
        patch_format="png",
        splits=contents,
    )
    (folder / "dataset.yaml").write_text(description.to_yaml())
    return folder


def write_scene(folder: Path, name: str, seed: int, height: int, width: int, **profile: object):
    """Write image, label and eroded label; return the image and the indices of both labels."""
    image, truth = noise(seed, height, width), labels(seed, height, width)
    eroded = truth.copy()
    eroded[::2] = 255
    folder.mkdir(exist_ok=True)
    with rasterio.open(
        folder / f"{name}.tif", "w", driver="GTiff", count=3, height=height, width=width,
        dtype="uint8", crs="EPSG:32640", transform=rasterio.Affine(0.5, 0, 0, 0, -0.5, 0),
        **profile,
    ) as raster:  # fmt: skip
        raster.write(image.transpose(2, 0, 1))
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:3] = COLOURS
    for suffix, indices in (("label", truth), ("eroded", eroded)):
        Image.fromarray(palette[indices]).save(folder / f"{name}_{suffix}.png")
    return image, truth, eroded


SIZES = {"b": (150, 130), "c": (90, 170)}


def write_labelled_scenes(folder: Path) -> dict:
    """Two scenes with labels in patches, and the scheme that reads them."""
    folder.mkdir()
    scheme = folder.parent / "mine.yaml"
    scheme.write_text(SCHEME)
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:3] = COLOURS
    truths = {}
    for seed, (name, size) in enumerate(SIZES.items()):
        truths[name] = blobs(seed, size, classes=3, ignored=0.05)
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32640"}
        transform = rasterio.Affine(0.5, 0, 300_000, 0, -0.5, 2_780_000)
        height, width = size
        with rasterio.open(
            folder / f"{name}.tif", "w", height=height, width=width, transform=transform, **profile
        ) as raster:
            raster.write(noise(seed, *size).transpose(2, 0, 1))
        Image.fromarray(palette[truths[name]]).save(folder / f"{name}_label.png")
    return {"folder": folder, "options": ["--scheme", scheme], "truths": truths}


def map_of(path: Path, indices: np.ndarray, top: float = 2_780_000) -> Path:
    """Write class indices as a map with the place of the first scene."""
    transform = rasterio.Affine(0.5, 0, 300_000, 0, -0.5, top)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32640"}
    height, width = indices.shape
    with rasterio.open(
        path, "w", height=height, width=width, transform=transform, **profile
    ) as raster:
        raster.write(indices, 1)
    return path


def predicted(scenes: dict, weights: Path, folder: Path, *options: str) -> dict[str, np.ndarray]:
    """Return the maps of `hrrsi predict`, in the indices of CLASSES."""
    arguments = ["predict", str(scenes["folder"]), "--weights", str(weights), "--out", str(folder)]
    arguments += ["--window", "64", "--precision", "32", "--device", "cpu", "--quiet", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lookup = np.full(256, 255, dtype=np.uint8)
    lookup[:3] = [CLASSES.index(name) for name in sorted(CLASSES)]
    maps = {}
    for name in SIZES:
        with rasterio.open(folder / f"{name}_classes.tif") as raster:
            maps[name] = lookup[raster.read(1)]
    return maps


def eroded(truth: np.ndarray) -> np.ndarray:
    without_borders = truth.copy()
    for index in range(3):
        other = (truth != index) & (truth != 255)
        without_borders[(truth == index) & ndimage.binary_dilation(other, disc(3))] = 255
    return without_borders


def matrix_of(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    counts = np.zeros((3, 3), dtype=np.int64)
    labelled = truth != 255
    np.add.at(counts, (prediction[labelled], truth[labelled]), 1)
    return counts


def scores_of(counts: np.ndarray) -> tuple[float, float]:
    """Return OA and mIoU."""
    return np.diag(counts).sum() / counts.sum(), ious_of(counts).mean()


def ious_of(counts: np.ndarray) -> np.ndarray:
    """Return the IoU of each class."""
    hits = np.diag(counts)
    return hits / (counts.sum(axis=0) + counts.sum(axis=1) - hits)
