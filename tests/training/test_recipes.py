"""What makes a recipe what it is, against formulas of their own, seen in what a run is given."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samples.made_dataset import save_made_dataset
from samples.training_runs import quick, quietly, weights_of
from torch import nn

from hrrsi.runs.options import LAST_CHECKPOINT
from hrrsi.tiling.dataset import TiledDataset, read_image, read_label
from hrrsi.training.initial_weights import first_network, keep_strided_depthwise_single
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import patch_weights, training_batches


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=8, val=2)


def training(options: TrainOptions, steps: int) -> SegmentationTraining:
    tiled = TiledDataset(options.data)
    network = first_network(options, tiled, resume=True, report=print)
    return SegmentationTraining(network, options, tiled.description, steps)


def polynomial(step: int, steps: int) -> float:
    return float((1 - step / steps) ** 0.9)


def cosine_after_a_tenth(step: int, steps: int) -> float:
    rising = steps // 10
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


@pytest.mark.parametrize(
    ("changes", "curve"),
    [
        ({"recipe": "published"}, polynomial),
        ({"recipe": "published", "optimizer": "adamw"}, polynomial),
        ({"schedule": "cosine", "warmup": 0.1}, cosine_after_a_tenth),
        ({"schedule": "cosine", "warmup": 0.1, "optimizer": "sgd"}, cosine_after_a_tenth),
    ],
)
def test_learning_rate_of_every_step(
    dataset: Path, changes: dict[str, Any], curve: Callable[[int, int], float]
) -> None:
    module = training(quick(dataset, Path("unused"), lr=0.02, **changes), steps=40)
    optimizer, schedule = module.optimizer_and_schedule()
    for step in range(40):
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(0.02 * curve(step, 40), rel=1e-9)
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_decays(dataset: Path, optimizer: str) -> None:
    options = quick(
        dataset, Path("unused"), recipe="published", optimizer=optimizer, lr=0.1, weight_decay=0.5
    )
    module = training(options, steps=4)
    norms = {
        f"{name}.{part}"
        for name, layer in module.network.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    parameters = dict(module.network.named_parameters())
    assert norms < set(parameters)
    assert any(name.endswith(".bias") and name not in norms for name in parameters)
    before = {}
    for name, parameter in parameters.items():
        nn.init.normal_(parameter)
        before[name] = parameter.detach().clone()
        parameter.grad = torch.zeros_like(parameter)  # so that only decay moves it
    configured, _ = module.optimizer_and_schedule()
    configured.step()
    for name, parameter in parameters.items():
        kept = optimizer == "adamw" and (name in norms or name.endswith(".bias"))
        expected = before[name] * (1 if kept else 1 - 0.1 * 0.5)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-7, msg=name)


def test_sgd_has_the_published_momentum(dataset: Path) -> None:
    options = quick(dataset, Path("unused"), recipe="published", lr=0.1, weight_decay=0)
    module = training(options, steps=10**9)  # the learning rate stays what it is
    optimizer, _ = module.optimizer_and_schedule()
    parameter = next(module.network.parameters())
    start = parameter.detach().clone()
    for _ in range(3):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    moved = 0.1 * (1 + (1 + 0.9) + (1 + 0.9 + 0.81))
    torch.testing.assert_close(parameter.detach(), start - moved, rtol=1e-5, atol=1e-6)


def test_patches_of_rare_classes_come_more_often(dataset: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    labels = sorted((data / "train" / "label").iterdir())
    frequencies = TiledDataset(data).description.class_frequencies
    rarest = min(share for share in frequencies if share > 0)
    Image.new("L", (64, 64), frequencies.index(rarest)).save(labels[0])
    Image.new("L", (64, 64), 255).save(labels[1])
    worths = []
    for path in labels:
        pixels = [int(c) for c in np.asarray(Image.open(path)).ravel() if c != 255]
        worth = [1 / math.sqrt(max(frequencies[c], rarest)) for c in pixels]
        worths.append(sum(worth) / max(1, len(pixels)))
    assert max(worths) == worths[0] > 1.3 * np.median(worths)
    worths[1] = max(worths) / 1000  # without labels: hardly ever
    expected = [worth / sum(worths) for worth in worths]
    tiled = TiledDataset(data)
    np.testing.assert_allclose(patch_weights(tiled), expected, rtol=1e-9)
    batches = training_batches(tiled, quick(data, Path("unused"), sampling="rare"))
    order: Any = batches.order
    drawn = np.zeros(len(expected))
    for epoch in range(500):
        order.set_epoch(epoch)
        for draw in order.draws():
            drawn[draw.patch] += 1
    np.testing.assert_allclose(drawn / drawn.sum(), expected, atol=0.02)


def test_overfitting_sees_whole_patches_whatever_the_crop(dataset: Path) -> None:
    tiled = TiledDataset(dataset)
    options = quick(dataset, Path("unused"), overfit=2, crop=32, batch=2)
    ((images, labels, indices),) = training_batches(tiled, options)
    for image, label, index in zip(images, labels, indices, strict=True):
        patch = tiled.patches("train")[int(index)]
        np.testing.assert_array_equal(image.numpy(), read_image(patch, tiled.description))
        np.testing.assert_array_equal(label.numpy(), read_label(patch, tiled.description))


def test_the_kept_weights_are_the_average_of_the_run_s(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[dict[str, torch.Tensor]] = []

    def weights(module: SegmentationTraining) -> dict[str, torch.Tensor]:
        return {key: value.double() for key, value in module.network.state_dict().items()}

    start, step = SegmentationTraining.start_epoch, SegmentationTraining.after_step

    def start_epoch(self: SegmentationTraining) -> None:
        if not after:
            after.append(weights(self))
        start(self)

    def after_step(self: SegmentationTraining, number: int) -> None:
        step(self, number)
        after.append(weights(self))

    monkeypatch.setattr(SegmentationTraining, "start_epoch", start_epoch)
    monkeypatch.setattr(SegmentationTraining, "after_step", after_step)
    run, _ = quietly(quick(dataset, tmp_path, average=0.15, batch=4, warmup=0.0))
    kept = weights_of(run.folder / LAST_CHECKPOINT)
    assert len(after) == 5  # the start, and two epochs of two steps
    moved = 0.0
    for key in after[0]:
        if key.endswith("num_batches_tracked"):
            continue
        expected = after[0][key]
        for number, new in enumerate(after[1:]):
            decay = min(0.15, (1 + number) / (10 + number))  # 0.1, then the recipe's
            expected = decay * expected + (1 - decay) * new[key]
        moved = max(moved, float((expected - after[-1][key]).abs().max()))
        average = kept[f"averaged_network.{key}"].double()
        torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6, msg=key)
    assert moved > 1e-3


def test_strided_depthwise_convolutions_stay_single() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 4, 1)
    )
    names = list(network.state_dict())
    image = torch.randn(2, 8, 16, 16)
    expected = network[0](image)
    (wanted,) = torch.autograd.grad(expected.square().sum(), network[0].weight)
    keep_strided_depthwise_single(network)
    assert list(network.state_dict()) == names
    with torch.autocast("cpu", torch.bfloat16):
        features = network[0](image)
        others = network[2](network[1](features))
    (gradient,) = torch.autograd.grad(features.square().sum(), network[0].weight)
    torch.testing.assert_close(features, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=0)
    assert others.dtype is torch.bfloat16
