"""Which validation patches a run draws, and which of its pictures it keeps."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from samples.made_dataset import save_made_dataset
from samples.picture_panels import magnified, pixels_of, place_of
from samples.training_runs import quick, quietly
from samples.undrawn_pictures import drawn_pictures

from hrrsi.tiling.dataset import TiledDataset, read_image, read_label
from hrrsi.training.options import TrainOptions
from hrrsi.training.sample_pictures import dropped_epochs, shown_patches


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=8, val=7)


@pytest.mark.slow
def test_networks_without_edges_have_fewer_panels(dataset: Path, tmp_path: Path) -> None:
    with drawn_pictures("_picture"):
        quietly(quick(dataset, tmp_path, epochs=1, model="ued"))
    picture = pixels_of(tmp_path / "ued" / "samples" / "epoch_0001.png")
    data = TiledDataset(dataset)
    first, second = shown_patches(data, TrainOptions(dataset))[:2]
    places = [
        place_of(magnified(read_image(patch, data.description).transpose(1, 2, 0)), picture)
        for patch in (first, second)
    ]
    assert places[0][0] == places[1][0]  # beside each other
    assert places[1][1] - places[0][1] == 4 * (192 + 4) + 8


def test_shown_patches_are_always_the_same_and_show_every_class(dataset: Path) -> None:
    data, options = TiledDataset(dataset), TrainOptions(dataset)
    shown = shown_patches(data, options, 3)
    assert shown == shown_patches(TiledDataset(dataset), options, 3)
    labels = {p: set(np.unique(read_label(p, data.description))) for p in data.patches("val")}
    assert set.union(*(labels[p] for p in shown)) == set.union(*labels.values())
    assert len(shown_patches(data, options, 100)) == 7
    overfit = TrainOptions(dataset, overfit=2)
    assert shown_patches(data, overfit) == data.patches("train")[:2]


@pytest.mark.parametrize("best", [1, 37, 500])
def test_few_pictures_are_kept_and_spread(best: int) -> None:
    kept: list[int] = []
    for epoch in range(1, 501):  # each the best so far until `best`
        kept.append(epoch)
        dropped = dropped_epochs(kept, min(epoch, best))
        assert len(dropped) <= 1
        kept = [e for e in kept if e not in dropped]
        assert len(kept) <= 20
        assert {1, min(epoch, best), epoch} <= set(kept)
    assert max(b - a for a, b in itertools.pairwise(kept)) <= 500 / 20 * 3
