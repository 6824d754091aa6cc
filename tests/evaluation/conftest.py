"""Weights, datasets and scenes that several test modules evaluate."""

from pathlib import Path

import pytest
from samples.evaluated_data import CLASSES, write_dataset, write_labelled_scenes, write_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Weights that order the classes as published ones do: alphabetically."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    return write_weights(path, sorted(CLASSES))


@pytest.fixture
def dataset(tmp_path) -> Path:
    return write_dataset(tmp_path / "dataset", {"train": 1, "val": 2, "test": 3})


@pytest.fixture(scope="session")
def labelled_scenes(tmp_path_factory) -> dict:
    """Two georeferenced scenes with labels in patches: folder, options of `hrrsi eval`, truths."""
    return write_labelled_scenes(tmp_path_factory.mktemp("labelled") / "raw")
