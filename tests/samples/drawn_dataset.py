"""Small tiled datasets of drawn patches, for what real ones don't have."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from hrrsi.tiling.dataset import DatasetDescription, image_bytes, label_bytes, patch_format

COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200), (200, 0, 200)]


def save_drawn_dataset(
    folder: Path,
    classes: list[str],
    *,
    train: int = 4,
    val: int = 2,
    size: int = 48,
    bands: int = 3,
    dtype: str = "uint8",
    scale: float = 255,
    seed: int = 0,
    **description: Any,
) -> Path:
    """Write patches whose left and right parts are two labels, each of a brightness of its own.

    Args:
        folder: The folder of the dataset.
        classes: Names of the classes.
        train: Patches to train on; 0: no such split.
        val: Patches to validate on, likewise.
        size: Rows and columns.
        bands: Bands.
        dtype: Type of the patches.
        scale: Full brightness.
        seed: Of labels and noise.
        description: Of `DatasetDescription`; `partial` as mappings, `mean` and so on.
    """
    random = np.random.default_rng(seed)
    partial = [
        {"name": name, "colour": COLOURS[-1 - i], "classes": of}
        for i, (name, of) in enumerate(description.pop("partial", {}).items())
    ]
    labels = len(classes) + len(partial)
    counts: dict[str, npt.NDArray[np.int64]] = {}
    file_format = patch_format(dtype, bands)
    for split, patches in (("train", train), ("val", val)):
        counts[split] = np.zeros(256, dtype=np.int64)
        for part in ("image", "label"):
            (folder / split / part).mkdir(parents=True)
        for number in range(patches):
            label = np.zeros((size, size), dtype=np.uint8)
            edge = int(random.integers(size // 3, size // 2))
            label[:, :edge], label[:, edge:] = number % labels, (number + 1) % labels
            label[:2, :2] = 255
            counts[split] += np.bincount(label.ravel(), minlength=256)
            shade = (label.astype(float) + 1) / (labels + 1) * np.ones((bands, 1, 1))
            noisy = (shade + random.normal(0, 0.02, shade.shape)).clip(0, 1) * scale
            name = f"scene_{number}.{file_format}"
            (folder / split / "image" / name).write_bytes(
                image_bytes(noisy.astype(dtype), file_format, None)
            )
            (folder / split / "label" / name).write_bytes(
                label_bytes(label, COLOURS, file_format, None)
            )
    values: dict[str, Any] = {
        "scheme": folder.name,
        "classes": classes,
        "colours": COLOURS[: len(classes)],
        "partial": partial,
        "bands": list(range(1, bands + 1)),
        "dtype": dtype,
        "scale": scale,
        "mean": [0.5] * bands,
        "std": [0.2] * bands,
        "statistics": "measured",
        "class_frequencies": [1 / len(classes)] * len(classes),
        "resolution": "unknown",
        "patch_size": size,
        "stride": size,
        "patch_format": file_format,
        "splits": {
            split: {
                "scenes": ["scene"],
                "patches": patches,
                "class_pixels": counts[split][: len(classes)].tolist(),
                "partial_pixels": counts[split][len(classes) : labels].tolist(),
                "ignored_pixels": int(counts[split][255]),
            }
            for split, patches in (("train", train), ("val", val))
            if patches
        },
        **description,
    }
    text = DatasetDescription.model_validate(values).to_yaml()
    (folder / "dataset.yaml").write_text(text)
    assert yaml.safe_load(text)["classes"] == classes
    return folder
