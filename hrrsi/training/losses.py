"""The published losses, each summed over pixels and divided by N x H x W, Dice, distillation.

Labels are (N, H, W) integers, 255 where ignored. Indices from the number of classes on are partial
labels, which stand for several classes: `candidates`, (labels, classes) bool, says for which.

Cross-entropy, body and distillation loss bring their own gradient: on a processor they go through
the batch image by image, so that what is in work stays in its caches (a third of the time that a
chain of whole-batch operations takes).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hrrsi.classes import IGNORE_INDEX
from hrrsi.runs.processes import summed
from hrrsi.tiling.dataset import DatasetDescription
from hrrsi.training.options import Recipe

_EDGE_WIDTH = 5
_RELAXATION = 5

# (logits (n, classes, H, W), labels (n, H, W), weights of labels) -> (loss, gradient of logits),
# or in distillation (logits, probabilities of the same shape, temperature) -> likewise
_LossAndGradient = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]
]


def candidate_table(description: DatasetDescription) -> torch.Tensor:
    """Return which classes the labels of a dataset stand for, (labels, classes) bool."""
    table = torch.zeros(len(description.label_names), len(description.classes), dtype=torch.bool)
    for label, classes in enumerate(description.candidates):
        table[label, classes] = True
    return table


def label_weights(
    frequencies: torch.Tensor, candidates: torch.Tensor, *, equal: bool = False
) -> torch.Tensor:
    """Return what a pixel of each label weighs: ``1 + (1 - frequency)`` of its class.

    A partial label weighs the mean of its classes.

    Args:
        frequencies: (classes,) share of each class in the labelled training pixels, 0 to 1.
        candidates: (labels, classes) bool.
        equal: All weigh 1 instead.

    Returns:
        (labels,) float.
    """
    weights = torch.ones_like(frequencies) if equal else 2.0 - frequencies
    members = candidates.to(weights.dtype)
    return members @ weights / members.sum(1)


def batch_losses(
    maps: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    weights: torch.Tensor,
    candidates: torch.Tensor,
    recipe: Recipe,
    teaching: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return the losses that a network's maps allow, in single precision; their sum is minimised.

    Body and Dice loss leave out pixels of partial labels.

    Args:
        maps: ``lbl``, and ``bdy`` and ``edg`` where the network has them.
        labels: (N, H, W), any integer type.
        weights: (labels,) weights of `label_weights`.
        candidates: (labels, classes) bool.
        recipe: Weights of Dice and distillation loss, and the temperature of the latter.
        teaching: Probabilities of teachers at that temperature (N, classes, H, W), or None.

    Returns:
        ``segmentation_loss``, and ``distillation_loss``, ``dice_loss``, ``body_loss``,
        ``edge_loss`` as they apply.
    """
    with torch.autocast(labels.device.type, enabled=False):
        segmentation = maps["lbl"].float()
        losses = {"segmentation_loss": segmentation_loss(segmentation, labels, weights, candidates)}
        if teaching is not None:
            losses["distillation_loss"] = recipe.distillation * distillation_loss(
                segmentation, teaching, recipe.temperature
            )
        if recipe.dice:
            losses["dice_loss"] = recipe.dice * dice_loss(segmentation, labels)
        if "bdy" in maps:
            losses["body_loss"] = body_loss(maps["bdy"].float(), labels, weights)
        if "edg" in maps:
            losses["edge_loss"] = edge_loss(maps["edg"].float(), edge_target(labels, candidates))
    return losses


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """Return the weighted cross-entropy of logits (N, classes, H, W).

    Of a partial label it is ``-w log sum p`` over its classes (Cour, Sapp & Taskar 2011, "Learning
    from Partial Labels", have the convex loss; this is the likelihood that Jin & Ghahramani 2002,
    "Learning with Multiple Labels", maximise).
    """
    way: _LossAndGradient = _cross_entropy
    if len(candidates) > candidates.shape[1]:
        way = partial(_partial_cross_entropy, candidates=candidates)
    loss: torch.Tensor = _ImageByImage.apply(way, logits, labels, weights)
    return loss


def distillation_loss(
    logits: torch.Tensor, teaching: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the divergence of a network's probabilities from those of its teachers.

    Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network": the sum of
    ``p (log p - log q)`` over classes and pixels, where q are the network's probabilities at a
    temperature T, times T squared, so that gradients are as large at any of them. Every pixel
    counts, with or without a label.

    Args:
        logits: (N, classes, H, W) float.
        teaching: Probabilities p of the teachers at the same temperature, likewise.
        temperature: What logits are divided by before the softmax, above 0.
    """
    softness = logits.new_full((), temperature)
    loss: torch.Tensor = _ImageByImage.apply(_divergence, logits, teaching, softness)
    return loss


def body_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the relaxed cross-entropy of body logits (N, classes, H, W).

    Probabilities p and one-hot labels t are averaged over 5x5 windows (stride 1, no padding),
    then the sum of ``-w t (log p - log t)`` is taken; a window of equal mixtures costs nothing,
    so borders may blur. Ignored pixels, and those of partial labels, count as no class.
    """
    weights = weights[: logits.shape[1]]
    loss: torch.Tensor = _ImageByImage.apply(_relaxed_cross_entropy, logits, labels, weights)
    return loss


def dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return one minus the mean soft Dice coefficient of the classes of the batch.

    Milletari et al. 2016, "V-Net", with sums instead of sums of squares, over the labelled pixels
    of the batch; classes that the batch does not hold don't count. Where several processes share
    a batch, each has the coefficients of its own share.

    Args:
        logits: (N, classes, H, W) float.
        labels: (N, H, W).
    """
    is_class = labels < logits.shape[1]
    probability = logits.softmax(1) * is_class[:, None]
    truth = _one_hot(labels, logits.shape[1])
    intersection = (probability * truth).sum((0, 2, 3))
    sizes = truth.sum((0, 2, 3), dtype=logits.dtype)
    coefficients = 2 * intersection / (probability.sum((0, 2, 3)) + sizes).clamp_min(1)
    present = sizes > 0
    return ((1 - coefficients) * present).sum() / present.sum().clamp_min(1)


def edge_target(labels: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return where class borders are: a band of about 5 px around class changes.

    A pixel is edge where the 5x5 window around it holds two classes. Ignored pixels make no
    border with the classes beside them. Where partial labels leave open whether it does, the pixel
    is ignored: not where no class is common to all of the window.

    Args:
        labels: (N, H, W) label indices, 255 where ignored.
        candidates: (labels, classes) bool.

    Returns:
        (N, H, W) uint8: 1 edge, 0 not, 255 ignored.
    """
    labels = labels.to(torch.uint8)
    ignored = labels == IGNORE_INDEX
    if len(candidates) > candidates.shape[1]:
        return torch.cat([_partial_edges(labels[part], candidates) for part in _portions(labels)])
    # beside any class, an ignored pixel is neither the highest nor the lowest
    highest = _over_windows(labels.masked_fill(ignored, 0), torch.maximum, 0)
    lowest = _over_windows(labels, torch.minimum, IGNORE_INDEX)
    return (highest > lowest).to(torch.uint8).masked_fill_(ignored, IGNORE_INDEX)


def edge_loss(logits: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Return the balanced binary cross-entropy of edge logits (N, H, W).

    Edge pixels weigh ``1 + others / all`` and others ``1 + edges / all``, counted over the batch,
    that is over the shares of all processes; every process has to call this.

    Args:
        logits: (N, H, W) float.
        edges: What `edge_target` returns.
    """
    valid = edges != IGNORE_INDEX
    positive = edges == 1
    positives, count = summed(torch.stack((positive.sum(), valid.sum())))
    positive_share = positives / count.clamp_min(1)
    negative_share = (count - positives) / count.clamp_min(1)
    weight = torch.where(positive, 1 + negative_share, 1 + positive_share) * valid
    total = F.binary_cross_entropy_with_logits(
        logits, positive.to(logits.dtype), weight=weight.to(logits.dtype), reduction="sum"
    )
    return total / edges.numel()


class _ImageByImage(torch.autograd.Function):
    """Sums a loss over images, and finds its gradient on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        loss_and_gradient: _LossAndGradient,
        logits: torch.Tensor,
        target: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        weights = weights.to(logits.dtype)
        total = torch.zeros((), dtype=logits.dtype, device=logits.device)
        gradient = torch.empty_like(logits)
        for images in _portions(logits):
            loss, gradient[images] = loss_and_gradient(logits[images], target[images], weights)
            total += loss
        pixels = logits[:, 0].numel()
        ctx.save_for_backward(gradient.div_(pixels))
        return total / pixels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[None, torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * scale, None, None


def _portions(batch: torch.Tensor) -> Iterator[slice]:
    """Yield what is worked on at once: an image on a processor, all of them on a GPU."""
    if batch.device.type != "cpu":
        yield slice(None)
        return
    for image in range(len(batch)):
        yield slice(image, image + 1)


def _cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    labelled = labels != IGNORE_INDEX
    index = labels.long().masked_fill(~labelled, 0)
    weight = (weights[index] * labelled)[:, None]
    index = index[:, None]
    log_probability = logits.log_softmax(1)
    loss = -(log_probability.gather(1, index) * weight).sum()
    gradient = log_probability.exp_().mul_(weight).scatter_add_(1, index, -weight)
    return loss, gradient


def _partial_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, candidates: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    ignored = labels == IGNORE_INDEX
    index = labels.long().masked_fill(ignored, 0)
    weight = weights[index].masked_fill_(ignored, 0)[:, None]
    excluded = ~candidates[index].movedim(-1, 1)
    log_probability = logits.log_softmax(1)
    of_candidates = log_probability.masked_fill(excluded, -math.inf)
    log_sum = of_candidates.logsumexp(1, keepdim=True)
    loss = -(log_sum * weight).sum()
    gradient = log_probability.exp_().sub_(of_candidates.sub_(log_sum).exp_()).mul_(weight)
    return loss, gradient


def _divergence(
    logits: torch.Tensor, teaching: torch.Tensor, temperature: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    log_probability = (logits / temperature).log_softmax(1)
    divergence = torch.xlogy(teaching, teaching) - teaching * log_probability
    gradient = log_probability.exp_().sub_(teaching).mul_(temperature)
    return divergence.sum() * temperature**2, gradient


def _partial_edges(labels: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    ignored = labels == IGNORE_INDEX
    index = labels.long().masked_fill(ignored, 0)
    possible = candidates[index].movedim(-1, 1) | ignored[:, None]
    in_all = _over_windows(possible.to(torch.uint8).flatten(0, 1), torch.minimum, 1)
    is_edge = in_all.view(possible.shape).sum(1) == 0
    is_definite = ((labels < candidates.shape[1]) | ignored).to(torch.uint8)
    is_open = ~is_edge & (_over_windows(is_definite, torch.minimum, 1) == 0)
    return is_edge.to(torch.uint8).masked_fill_(ignored | is_open, IGNORE_INDEX)


def _relaxed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    area = _RELAXATION**2
    # at most 25, so bytes hold them
    target = _window_sums(_one_hot(labels, logits.shape[1])).to(logits.dtype).div_(area)
    probability = logits.softmax(1)
    relaxed = _window_sums(probability).div_(area)
    tiny = torch.finfo(logits.dtype).tiny
    beyond = relaxed < tiny
    relaxed.clamp_min_(tiny)
    weighted = target * weights[:, None, None]
    loss = (torch.xlogy(weighted, target) - weighted * relaxed.log()).sum()
    slope = weighted.div_(relaxed).masked_fill_(beyond, 0).div_(-area)
    border = _RELAXATION - 1
    slope = _window_sums(F.pad(slope, (border, border, border, border)))
    gradient = slope.mul_(probability)
    gradient -= probability * gradient.sum(1, keepdim=True)
    return loss, gradient


def _one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return (N, classes, H, W) uint8: 1 at the label's class, and nowhere if it is ignored."""
    indices = torch.arange(classes, dtype=torch.uint8, device=labels.device)
    return (labels.to(torch.uint8)[:, None] == indices[:, None, None]).to(torch.uint8)


def _window_sums(values: torch.Tensor) -> torch.Tensor:
    """Return the sums over the 5x5 windows that lie inside (..., H, W), as (..., H - 4, W - 4)."""
    for axis in (-1, -2):
        length = values.shape[axis]
        twos = values.narrow(axis, 0, length - 1) + values.narrow(axis, 1, length - 1)
        fours = twos.narrow(axis, 0, length - 3) + twos.narrow(axis, 2, length - 3)
        values = fours.narrow(axis, 0, length - 4) + values.narrow(axis, 4, length - 4)
    return values


def _over_windows(
    values: torch.Tensor,
    highest_or_lowest: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    outside: int,
) -> torch.Tensor:
    """Return the extreme of the 5x5 window around each pixel of (N, H, W)."""
    border = _EDGE_WIDTH // 2
    values = F.pad(values, (border, border, border, border), value=outside)
    for axis in (-1, -2):
        length = values.shape[axis]
        twos = highest_or_lowest(
            values.narrow(axis, 0, length - 1), values.narrow(axis, 1, length - 1)
        )
        fours = highest_or_lowest(
            twos.narrow(axis, 0, length - 3), twos.narrow(axis, 2, length - 3)
        )
        values = highest_or_lowest(
            fours.narrow(axis, 0, length - 4), values.narrow(axis, 4, length - 4)
        )
    return values
