"""What a run starts from sees the bands as it learned to see them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from samples.made_dataset import save_made_dataset
from samples.network_contract import meta_of
from samples.training_runs import SMALL, quick, quietly

from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model, read_meta
from hrrsi.runs.folder import read_checkpoint
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.initial_weights import first_network, normalised_data
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import validation_batches
from hrrsi.training.run_data import RunData, run_data


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=4, val=2)


def saved(folder: Path, dataset: Path, *, brighter: float = 0.0, **changes: object) -> Path:
    """Weights that were trained on the dataset's classes, on bands brighter than its own."""
    about = TiledDataset(dataset).description
    mean = [value + brighter for value in about.mean]
    meta = replace(
        meta_of(SMALL, len(about.classes)),
        classes=about.classes,
        mean=mean,
        std=[0.8 * value for value in about.std],
        **changes,
    )
    path = folder / f"brighter{brighter}.safetensors"
    torch.manual_seed(3)
    save_weights(build_network(SMALL, len(about.classes)).state_dict(), meta, path)
    return path


def confusion(data: RunData, options: TrainOptions) -> np.ndarray:
    """Return the confusion matrix of a run's validation patches before its first step."""
    network = first_network(options, data, resume=False, report=lambda _: None)
    module = SegmentationTraining(network, options, data.description, steps=1).eval()
    with torch.no_grad():
        for batch in validation_batches(data, options):
            module.validate(batch)
    module.end_validation()
    return np.array(module.matrix.counts)


def test_a_run_starts_with_what_its_weights_score(dataset: Path, tmp_path: Path) -> None:
    weights = saved(tmp_path, dataset, brighter=0.1)
    meta = read_meta(weights)
    about = yaml.safe_load((dataset / "dataset.yaml").read_text())
    options = quick(dataset, tmp_path, init=weights, average=0)
    # the same patches, in a dataset whose statistics are the weights' own
    own = RunData([TiledDataset(dataset)]).normalised(meta.mean, meta.std)
    expected = confusion(own, options)
    data = normalised_data(run_data(options), options, None)
    np.testing.assert_array_equal(confusion(data, options), expected)
    assert (confusion(run_data(options), options) != expected).any()
    assert about["mean"] != meta.mean


@pytest.mark.parametrize(
    ("brighter", "changes"),
    [(0.9, {}), (0.1, {"bands": [4, 1, 2]}), (0.1, {"band_meanings": ["nir", "red", "green"]})],
)
def test_bands_of_another_kind_are_normalised_by_their_own(
    dataset: Path, brighter: float, changes: dict[str, object], tmp_path: Path
) -> None:
    options = quick(dataset, tmp_path, init=saved(tmp_path, dataset, brighter=brighter, **changes))
    data, lines = run_data(options), []
    own = data.description
    if "band_meanings" in changes:
        data.description = own.model_copy(update={"band_meanings": ("red", "green", "blue")})
    seen = normalised_data(data, options, None)
    assert (seen.description.mean, seen.description.std) == (own.mean, own.std)
    first_network(options, seen, resume=False, report=lines.append)
    assert any("normalised by the dataset's own mean" in line for line in lines)


def test_heights_are_normalised_by_their_own(dataset: Path, tmp_path: Path) -> None:
    about = TiledDataset(dataset).description
    weights = tmp_path / "heights.safetensors"
    meta = replace(
        meta_of(SMALL, 5, 4), bands=[1, 2, 3], height=True, mean=[0.5] * 4, std=[0.2] * 4
    )
    save_weights(build_network(SMALL, 5, 4).state_dict(), meta, weights)
    data = run_data(quick(dataset, tmp_path))
    update = {"height": "dsm", "mean": [*about.mean, 3.5], "std": [*about.std, 0.4]}
    data.description = about.model_copy(update=update)
    seen = normalised_data(data, quick(dataset, tmp_path, init=weights), None).description
    assert seen.mean == [0.5, 0.5, 0.5, 3.5]
    assert seen.std == [0.2, 0.2, 0.2, 0.4]


def test_a_run_goes_on_as_it_started(dataset: Path, tmp_path: Path) -> None:
    weights = saved(tmp_path, dataset, brighter=0.1)
    meta = read_meta(weights)
    options = quick(dataset, tmp_path / "runs", init=weights, epochs=1, freeze_encoder=0)
    run, lines = quietly(options)
    assert not any("normalised" in line for line in lines)
    assert (read_meta(run.weights).mean, read_meta(run.weights).std) == (meta.mean, meta.std)
    # few patches don't take the place of what batch norms learned from many
    start, trained = load_model(weights).state_dict(), load_model(run.weights).state_dict()
    kept = [key for key in start if key.endswith(("running_mean", "running_var"))]
    assert len(kept) > 20
    assert all(torch.equal(trained[key], start[key].to(trained[key].dtype)) for key in kept)
    assert any(not torch.equal(trained[key], start[key]) for key in start)
    weights.unlink()
    checkpoint = read_checkpoint(run.folder / "last.ckpt")
    seen = normalised_data(run_data(options), options, checkpoint).description
    assert (seen.mean, seen.std) == (meta.mean, meta.std)
