"""The losses against plain, slow readings of their definitions: values and gradients."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from hrrsi.training.losses import (
    batch_losses,
    body_loss,
    dice_loss,
    distillation_loss,
    edge_loss,
    edge_target,
    label_weights,
    segmentation_loss,
)
from hrrsi.training.options import recipe_named

CLASSES = 3


@pytest.fixture
def labels() -> torch.Tensor:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, CLASSES, (2, 4, 3)).repeat(4, 1).repeat(4, 2)
    blocks[0, :3, :5] = 255
    blocks[1, 9, 4] = 255
    return torch.from_numpy(blocks)


@pytest.fixture
def logits() -> torch.Tensor:
    torch.manual_seed(0)
    return (2 * torch.randn(2, CLASSES, 16, 12, dtype=torch.float64)).requires_grad_()


WEIGHTS = torch.tensor([1.2, 1.9, 1.5], dtype=torch.float64)
ALONE = torch.eye(CLASSES, dtype=torch.bool)
# two partial labels more: class 0 or 1, class 1 or 2
PARTIAL = torch.cat([ALONE, torch.tensor([[True, True, False], [False, True, True]])])


def assert_same(actual: torch.Tensor, expected: torch.Tensor, inputs: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(actual, inputs)
    (wanted,) = torch.autograd.grad(expected, inputs)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-12)


def softmax_at(logits: torch.Tensor, n: int, y: int, x: int) -> list[torch.Tensor]:
    powers = [logits[n, c, y, x].exp() for c in range(CLASSES)]
    return [p / sum(powers) for p in powers]


def test_label_weights() -> None:
    frequencies = torch.tensor([0.5, 0.25, 0.25])
    assert label_weights(frequencies, ALONE).tolist() == [1.5, 1.75, 1.75]
    weights = label_weights(frequencies, PARTIAL)
    assert weights.tolist() == [1.5, 1.75, 1.75, 1.625, 1.75]
    assert label_weights(frequencies, PARTIAL, equal=True).tolist() == [1] * 5


def test_segmentation_loss(logits: torch.Tensor, labels: torch.Tensor) -> None:
    expected = torch.zeros((), dtype=torch.float64)
    for n, y, x in np.ndindex(*labels.shape):
        label = int(labels[n, y, x])
        if label != 255:
            expected = expected - WEIGHTS[label] * softmax_at(logits, n, y, x)[label].log()
    assert_same(
        segmentation_loss(logits, labels, WEIGHTS, ALONE), expected / labels.numel(), logits
    )


def test_edge_target_is_a_band_around_class_changes_alone(labels: torch.Tensor) -> None:
    actual = edge_target(labels, ALONE)
    array = labels.numpy()
    for n, y, x in np.ndindex(*array.shape):
        if array[n, y, x] == 255:
            assert actual[n, y, x] == 255
            continue
        around = array[n, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        assert actual[n, y, x] == (len(set(around[around != 255].tolist())) > 1)
    assert {0, 1, 255} == set(actual.unique().tolist())


def test_a_straight_border_makes_a_band_of_four_pixels() -> None:
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)
    labels[:, :, 10:] = 1
    assert edge_target(labels, ALONE)[0, 7].nonzero().flatten().tolist() == [8, 9, 10, 11]


def test_ignored_pixels_make_no_border() -> None:
    labels = torch.full((1, 20, 20), 1)
    labels[:, 5:9, 5:9] = 255
    assert set(edge_target(labels, ALONE).unique().tolist()) == {0, 255}


def test_edge_loss(labels: torch.Tensor) -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 16, 12, dtype=torch.float64, requires_grad=True)
    edges = edge_target(labels, ALONE)
    positives, negatives = int((edges == 1).sum()), int((edges == 0).sum())
    everything = positives + negatives
    expected = torch.zeros((), dtype=torch.float64)
    for n, y, x in np.ndindex(*edges.shape):
        p = 1 / (1 + (-logits[n, y, x]).exp())
        if edges[n, y, x] == 1:
            expected = expected - (1 + negatives / everything) * p.log()
        elif edges[n, y, x] == 0:
            expected = expected - (1 + positives / everything) * (1 - p).log()
    actual = edge_loss(logits, edges)
    torch.testing.assert_close(actual, expected / edges.numel(), rtol=1e-6, atol=1e-9)
    assert_gradients_close(actual, expected / edges.numel(), logits)


def assert_gradients_close(
    actual: torch.Tensor, expected: torch.Tensor, inputs: torch.Tensor
) -> None:
    (gradient,) = torch.autograd.grad(actual, inputs)
    (wanted,) = torch.autograd.grad(expected, inputs)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.long
def test_body_loss(logits: torch.Tensor, labels: torch.Tensor) -> None:
    count, height, width = labels.shape
    expected = torch.zeros((), dtype=torch.float64)
    for n in range(count):
        for top in range(height - 4):
            for left in range(width - 4):
                p = [torch.zeros((), dtype=torch.float64) for _ in range(CLASSES)]
                t = [0.0] * CLASSES
                for y in range(top, top + 5):
                    for x in range(left, left + 5):
                        for c, share in enumerate(softmax_at(logits, n, y, x)):
                            p[c] = p[c] + share / 25
                        if labels[n, y, x] != 255:
                            t[int(labels[n, y, x])] += 1 / 25
                for c in range(CLASSES):
                    if t[c] > 0:
                        expected = expected - WEIGHTS[c] * t[c] * (p[c].log() - np.log(t[c]))
    assert_same(body_loss(logits, labels, WEIGHTS), expected / labels.numel(), logits)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_distillation_loss(logits: torch.Tensor, temperature: float) -> None:
    teaching = torch.softmax(3 * torch.randn(logits.shape, dtype=torch.float64), 1)
    teaching[0, :, 2, 3] = torch.tensor([0, 1, 0])  # as sure as a label
    expected = torch.zeros((), dtype=torch.float64)
    for n, y, x in np.ndindex(2, 16, 12):
        powers = [(logits[n, c, y, x] / temperature).exp() for c in range(CLASSES)]
        for c, power in enumerate(powers):
            p = teaching[n, c, y, x]
            if p > 0:
                expected = expected + p * (p.log() - (power / sum(powers)).log())
    expected = temperature**2 * expected / (2 * 16 * 12)
    assert_same(distillation_loss(logits, teaching, temperature), expected, logits)


def test_a_network_that_agrees_with_its_teachers_has_nothing_to_learn(
    logits: torch.Tensor,
) -> None:
    loss = distillation_loss(logits, (logits / 2).softmax(1).detach(), 2.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert float(gradient.abs().max()) < 1e-12


def test_distillation_adds_to_the_other_losses_on_every_pixel(logits: torch.Tensor) -> None:
    maps, ignored = {"lbl": logits.float()}, torch.full((2, 16, 12), 255)
    teaching = logits.detach().float().flip(1).softmax(1)
    recipe = recipe_named("default", distillation=0.5, temperature=3.0)
    losses = batch_losses(maps, ignored, WEIGHTS, ALONE, recipe, teaching)
    assert float(losses["segmentation_loss"].detach()) == 0
    expected = 0.5 * distillation_loss(maps["lbl"], teaching, 3.0)
    torch.testing.assert_close(losses["distillation_loss"], expected)
    without = batch_losses(maps, ignored, WEIGHTS, ALONE, recipe)
    assert "distillation_loss" not in without


def test_dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> None:
    labels = labels.masked_fill(labels == 1, 255)  # the batch holds no pixel of class 1
    coefficients = []
    for c in (0, 2):
        overlap, predicted, true = (torch.zeros((), dtype=torch.float64) for _ in range(3))
        for n, y, x in np.ndindex(*labels.shape):
            if labels[n, y, x] != 255:
                share = softmax_at(logits, n, y, x)[c]
                predicted = predicted + share
                if labels[n, y, x] == c:
                    overlap, true = overlap + share, true + 1
        coefficients.append(2 * overlap / (predicted + true))
    assert_same(dice_loss(logits, labels), 1 - sum(coefficients) / 2, logits)


def test_a_dice_batch_without_labels_costs_nothing(logits: torch.Tensor) -> None:
    value = dice_loss(logits, torch.full((2, 16, 12), 255))
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == 0
    assert float(gradient.abs().max()) == 0


def test_a_recipe_weighs_the_dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> None:
    maps = {"lbl": logits.float()}
    recipe = recipe_named("published", dice=0.5)
    losses = batch_losses(maps, labels, WEIGHTS, ALONE, recipe)
    assert set(losses) == {"segmentation_loss", "dice_loss"}
    torch.testing.assert_close(losses["dice_loss"], 0.5 * dice_loss(maps["lbl"], labels))
    assert "dice_loss" not in batch_losses(maps, labels, WEIGHTS, ALONE, recipe_named("published"))


@pytest.mark.parametrize("loss", [partial(segmentation_loss, candidates=ALONE), body_loss])
def test_a_batch_without_labels_costs_nothing(
    loss: Callable[..., torch.Tensor], logits: torch.Tensor
) -> None:
    nothing = torch.full((2, 16, 12), 255)
    value = loss(logits, nothing, WEIGHTS)
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == 0
    assert float(gradient.abs().max()) == 0


def test_an_edge_batch_without_labels_costs_nothing() -> None:
    logits = torch.randn(1, 8, 8, requires_grad=True)
    assert edge_loss(logits, edge_target(torch.full((1, 8, 8), 255), ALONE)).item() == 0


@pytest.fixture
def partial_labels(labels: torch.Tensor) -> torch.Tensor:
    changed = labels.clone()
    changed[0, 4:, 6:] = 3
    changed[1, :8, :4] = 4
    return changed


def test_loss_of_partial_labels_is_of_the_summed_probability(
    logits: torch.Tensor, partial_labels: torch.Tensor
) -> None:
    weights = torch.tensor([1.2, 1.9, 1.5, 1.4, 1.7], dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for n, y, x in np.ndindex(*partial_labels.shape):
        label = int(partial_labels[n, y, x])
        if label != 255:
            softmax = softmax_at(logits, n, y, x)
            inside = sum(p for p, member in zip(softmax, PARTIAL[label], strict=True) if member)
            expected = expected - weights[label] * torch.as_tensor(inside).log()
    actual = segmentation_loss(logits, partial_labels, weights, PARTIAL)
    assert_same(actual, expected / partial_labels.numel(), logits)


def test_sure_predictions_cost_finitely_where_they_are_no_candidate() -> None:
    logits = torch.tensor([500.0, 0, 0]).reshape(1, 3, 1, 1).requires_grad_()
    loss = segmentation_loss(logits, torch.tensor([[[4]]]), torch.ones(5), PARTIAL)
    assert loss.item() == pytest.approx(500 - np.log(2))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.flatten().tolist() == pytest.approx([1, -0.5, -0.5], abs=1e-5)


def test_partial_labels_of_classes_alone_change_nothing(
    logits: torch.Tensor, labels: torch.Tensor
) -> None:
    """The two ways to the loss and to edges agree where no pixel has a partial label."""
    weights = torch.cat([WEIGHTS, torch.ones(2, dtype=torch.float64)])
    expected = segmentation_loss(logits, labels, WEIGHTS, ALONE)
    assert_same(segmentation_loss(logits, labels, weights, PARTIAL), expected, logits)
    assert torch.equal(edge_target(labels, PARTIAL), edge_target(labels, ALONE))


def test_body_and_dice_loss_leave_partial_labels_out(
    logits: torch.Tensor, partial_labels: torch.Tensor
) -> None:
    ignored = partial_labels.masked_fill((partial_labels > 2) & (partial_labels < 255), 255)
    weights = torch.cat([WEIGHTS, torch.ones(2, dtype=torch.float64)])
    assert_same(
        body_loss(logits, partial_labels, weights), body_loss(logits, ignored, WEIGHTS), logits
    )
    assert_same(dice_loss(logits, partial_labels), dice_loss(logits, ignored), logits)


def test_edges_of_partial_labels_are_those_that_are_certain(partial_labels: torch.Tensor) -> None:
    actual = edge_target(partial_labels, PARTIAL)
    height, width = partial_labels.shape[1:]
    for n, y, x in np.ndindex(*partial_labels.shape):
        window = partial_labels[n, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].flatten()
        members = [PARTIAL[int(label)] for label in window if label != 255]
        if partial_labels[n, y, x] == 255:
            wanted = 255
        elif not torch.stack(members).all(0).any():
            wanted = 1
        else:
            wanted = 255 if any(label in (3, 4) for label in window.tolist()) else 0
        assert actual[n, y, x] == wanted, (n, y, x)
    assert set(actual.unique().tolist()) == {0, 1, 255}
    assert (height, width) == actual.shape[1:]
