"""The published losses: each is summed over pixels and divided by N x H x W.

Labels are (N, H, W) int64, 255 where ignored; class weights are (classes,) float.
"""

import torch
import torch.nn.functional as F

from hrrsi.labels.scheme import IGNORE_INDEX

_EDGE_WIDTH = 5
_RELAXATION = 5


def class_weights(frequencies: torch.Tensor) -> torch.Tensor:
    """Return ``1 + (1 - frequency)`` for each class.

    Args:
        frequencies: (classes,) share of each class in the labelled training pixels, 0 to 1.
    """
    return 2.0 - frequencies


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the class-weighted cross-entropy of logits (N, classes, H, W)."""
    total = F.cross_entropy(
        logits, labels, weight=weights, ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return total / labels.numel()


def edge_target(labels: torch.Tensor) -> torch.Tensor:
    """Return where class borders are: a band of about 5 px around class changes.

    A pixel is edge where the 5x5 window around it holds two classes. Ignored pixels make no
    border with the classes beside them.

    Returns:
        (N, H, W) int64: 1 edge, 0 not, 255 ignored.
    """
    ignored = labels == IGNORE_INDEX
    values = labels.to(torch.float32)
    highest = _window_maximum(values.masked_fill(ignored, -1.0))
    lowest = -_window_maximum((-values).masked_fill(ignored, -float(IGNORE_INDEX)))
    edge = (highest > lowest).to(torch.int64)
    return edge.masked_fill(ignored, IGNORE_INDEX)


def _window_maximum(values: torch.Tensor) -> torch.Tensor:
    padding = _EDGE_WIDTH // 2
    rows = F.max_pool2d(values[:, None], (_EDGE_WIDTH, 1), 1, (padding, 0))
    return F.max_pool2d(rows, (1, _EDGE_WIDTH), 1, (0, padding))[:, 0]


def edge_loss(logits: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Return the balanced binary cross-entropy of edge logits (N, H, W).

    Edge pixels weigh ``1 + others / all`` and others ``1 + edges / all``, counted over the batch.

    Args:
        logits: (N, H, W) float.
        edges: What `edge_target` returns.
    """
    valid = edges != IGNORE_INDEX
    positive = edges == 1
    count = valid.sum().clamp_min(1)
    positive_share = positive.sum() / count
    negative_share = (valid & ~positive).sum() / count
    weight = torch.where(positive, 1 + negative_share, 1 + positive_share) * valid
    total = F.binary_cross_entropy_with_logits(
        logits, positive.to(logits.dtype), weight=weight.to(logits.dtype), reduction="sum"
    )
    return total / edges.numel()


def body_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the relaxed cross-entropy of body logits (N, classes, H, W).

    Probabilities p and one-hot labels t are averaged over 5x5 windows (stride 1, no padding),
    then the sum of ``-w t (log p - log t)`` is taken; a window of equal mixtures costs nothing,
    so borders may blur. Ignored pixels count as no class.
    """
    classes = logits.shape[1]
    known = labels != IGNORE_INDEX
    one_hot = F.one_hot(labels.masked_fill(~known, 0), classes).movedim(-1, 1).to(logits.dtype)
    one_hot = one_hot * known[:, None]
    target = F.avg_pool2d(one_hot, _RELAXATION, 1)
    probability = F.avg_pool2d(logits.softmax(1), _RELAXATION, 1)
    tiny = torch.finfo(probability.dtype).tiny
    divergence = torch.xlogy(target, target) - target * probability.clamp_min(tiny).log()
    return (divergence * weights.to(logits.dtype)[:, None, None]).sum() / labels.numel()
