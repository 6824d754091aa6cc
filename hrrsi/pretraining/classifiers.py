"""The networks that are pre-trained: whole classifiers, under timm's names."""

from __future__ import annotations

import re
from typing import Any

import timm
import torch
from torch import nn

from hrrsi.errors import HrrsiError, OptionError
from hrrsi.networks.encoders import check_timm_name, ghostnet_classifier

BANDS = 3
_GHOSTNET = re.compile(r"ghostnet_(\d{3})")


def ghostnet_width(encoder: str) -> float | None:
    """Return the width of a GhostNet, e.g. 1.3 of ``ghostnet_130``; None for other encoders."""
    match = _GHOSTNET.fullmatch(encoder)
    return int(match[1]) / 100 if match else None


def classifier(encoder: str, classes: int, sizes: tuple[int, ...] = ()) -> nn.Module:
    """Return a classifier with the weights it starts from.

    Args:
        encoder: timm's name of it; ``ghostnet_NNN`` is GhostNet at width NNN / 100, whether timm
            has that name or not.
        classes: Number of classes.
        sizes: Rows and columns of images that it has to take.

    Returns:
        A module whose call on (N, 3, H, W) float images returns logits (N, classes).

    Raises:
        HrrsiError: There is no such encoder, or it does not take images of these sizes.
    """
    width = ghostnet_width(encoder)
    if width == 0:
        raise OptionError("has no width", fix="give ghostnet_100", parameter="encoder").at(
            f"`encoder={encoder}`"
        )
    if width is not None:
        network: nn.Module = ghostnet_classifier(width, BANDS, classes)
    else:
        network = _timm_classifier(encoder, classes)
    for size in sizes:
        _check_size(network, encoder, size)
    return network


def _timm_classifier(encoder: str, classes: int) -> Any:
    try:
        check_timm_name(encoder)
    except HrrsiError as error:
        raise OptionError(error.what, fix=error.fix, parameter="encoder").at(
            f"`encoder={encoder}`"
        ) from error
    try:
        return timm.create_model(encoder, num_classes=classes, in_chans=BANDS)
    except Exception as error:  # whatever a model's own constructor raises
        raise OptionError(
            f"timm can't build it as a classifier ({_first_line(error)})",
            fix="choose another encoder",
            parameter="encoder",
        ).at(f"`encoder={encoder}`") from error


def _check_size(network: nn.Module, encoder: str, size: int) -> None:
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, BANDS, size, size))
    except Exception as error:  # encoders that take one size say so in many ways
        raise OptionError(
            f"does not take images of {size} px ({_first_line(error)})",
            fix="give other `size` and `val_size`",
            parameter="encoder",
        ).at(f"`encoder={encoder}`") from error
    finally:
        network.train()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
