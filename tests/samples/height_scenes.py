"""Scenes with height models, the commands on them, and what a network says of a stack."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from samples.command_results import done, run
from samples.made_weights import scene_pixels
from samples.raw_layouts import (
    own_folder,
    own_scheme,
)
from typer.testing import Result

import hrrsi

PIXELS = np.moveaxis(scene_pixels(), -1, 0)[:, :150, :180]


SHAPE = PIXELS.shape[1:]


def refusal(*arguments: object) -> str:
    """What a run says that fails: one line."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def hills(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return smooth heights around 280, (height, width) float32."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    rough = np.random.default_rng(seed).normal(size=shape)
    return (280 + 8 * np.sin(rows / 19) + 6 * np.cos(columns / 23) + rough).astype(np.float32)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def put_together(folder: Path, bands: int, shape: tuple[int, int], size: int = 32) -> np.ndarray:
    """Return the scene whose patches lie in a folder, where they don't overlap."""
    whole = np.zeros((bands, *(-(-n // size) * size for n in shape)), np.float64)
    for path in folder.glob("*.tif"):
        row, col = map(int, path.stem.split("_")[-2:])
        whole[:, row : row + size, col : col + size] = read(path)
    return whole[:, : shape[0], : shape[1]]


def own_scenes(root: Path, shape: tuple[int, int] = (96, 64), **options: Any) -> Path:
    """Write three labelled scenes and their scheme; return the scheme."""
    own_folder(root / "raw", ["a_1", "b_2", "c_3"], shape, **options)
    return own_scheme(root)


def tile(root: Path, scheme: Path, height: object, *more: object, out: str = "out") -> Result:
    return run(
        *("tile", root / "raw", "--scheme", scheme, "--val-scenes", "b_2", "--test-scenes", "c_3"),
        *("--size", 32, "--workers", 1, "--quiet", "--out", root / out, "--height", height, *more),
    )


def mapped(weights: Path, scene: Path, out: Path, *options: object) -> np.ndarray:
    """Return the labels that `hrrsi predict` gives a scene in one window."""
    done(
        *("predict", scene, "--weights", weights, "--window", 192, "--precision", 32, "--quiet"),
        *("--overwrite", "--out", out, *options),
    )
    return read(out)[0]


def reference(weights: Path, stack: np.ndarray) -> np.ndarray:
    """Return the labels of (bands, height, width) by the network, padded with mirror images."""
    network = hrrsi.load_model(weights)
    meta = network.meta
    mean, std = (np.asarray(meta[k]).reshape(-1, 1, 1) for k in ("mean", "std"))
    pad = [(0, 0), *((0, 192 - n) for n in stack.shape[1:])]
    image = (np.pad(stack, pad, mode="symmetric") / meta["scale"] - mean) / std
    with torch.no_grad():
        logits = network(torch.from_numpy(image.astype(np.float32))[None])["lbl"][0]
    return logits.argmax(0).numpy()[: stack.shape[1], : stack.shape[2]]


def refusal_of_predict(root: Path, scene: str, height: Path) -> str:
    return refusal("predict", root / scene, "--height", height, "--out", root / "maps/", "--quiet")
