"""The published networks: the layout of their checkpoints, and what they yield for made weights.

``tests/networks/published/layouts.csv`` lists the tensors of the published checkpoints, with a
column of shapes for each network. ``outputs.npz`` holds what the published networks yield in single
precision for `filled_weights` and `normalised_image`: an array ``NAME/HxW/MAP`` for each map, the
rows and columns of it that `stored_part` returns.
"""

import csv
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from samples.repository import REPOSITORY

FOLDER = REPOSITORY / "tests" / "networks" / "published"
# the score is a fourth of the input's size, the other maps have all of it
STRIDES = {"lbl": 8, "bdy": 8, "edg": 8, "argmax": 8, "scr": 4}


def published_models() -> tuple[str, ...]:
    """Return the names of the networks whose layout was published."""
    with (FOLDER / "layouts.csv").open(newline="") as file:
        return tuple(next(csv.reader(file))[1:])


def published_layout(model: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a published checkpoint."""
    with (FOLDER / "layouts.csv").open(newline="") as file:
        return {
            row["key"]: tuple(int(length) for length in row[model].split("x") if length != "scalar")
            for row in csv.DictReader(file)
            if row[model]
        }


def filled_weights(model: str) -> dict[str, torch.Tensor]:
    """Return the state dict of a published checkpoint with numbers that any machine makes alike.

    Each tensor has a random generator of its own, seeded with the CRC-32 of its key, whose stream
    numpy keeps for ever.
    """
    return {
        key: torch.from_numpy(_filled(key, shape)) for key, shape in published_layout(model).items()
    }


def published_checkpoint(model: str, folder: Path) -> Path:
    """Write a file as the published ones are; return its path."""
    path = folder / "epoch_420_OA_0.8960.pth"
    content = {
        "epoch": 420,
        "model_state_dict": filled_weights(model),
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.004, "momentum": 0.9}]},
    }
    torch.save(content, path)
    return path


def normalised_image(height: int, width: int) -> torch.Tensor:
    """Return the input of the reference outputs, (1, 3, height, width) float32."""
    random = np.random.RandomState(7)
    return torch.from_numpy(random.uniform(-2, 2, (1, 3, height, width)).astype(np.float32))


def published_outputs(model: str) -> Iterator[tuple[tuple[int, int], str, np.ndarray]]:
    """Yield height and width of the input, name and values of each reference map of a network."""
    with np.load(FOLDER / "outputs.npz") as outputs:
        for key in outputs:
            name, size, output = key.split("/")
            if name == model:
                height, width = map(int, size.split("x"))
                yield (height, width), output, outputs[key]


def stored_part(output: str, values: np.ndarray) -> np.ndarray:
    """Return the rows and columns of a map, (..., height, width), that ``outputs.npz`` holds."""
    return values[..., :: STRIDES[output], :: STRIDES[output]]


def _filled(key: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.ones(shape, dtype=np.int64)
    if key.endswith("running_var"):
        low, high = 0.8, 1.6
    elif len(shape) == 1 and key.endswith(".weight"):
        low, high = 0.5, 0.9
    elif len(shape) == 1:  # biases, and the means of BatchNorms
        low, high = -0.2, 0.2
    else:
        # keeps the variance of what comes in; flow that moves pixels by more than a fraction
        high = np.sqrt(3 / np.prod(shape[1:])) * (3 if "flow_make" in key else 1)
        low = -high
    return random.uniform(low, high, shape).astype(np.float32)
