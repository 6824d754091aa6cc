"""Images made larger, for what takes multiples of a stride only."""

import torch
import torch.nn.functional as F


def padded_to_multiples(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Return an image with its last row and column repeated until both sizes are multiples.

    Args:
        image: (N, bands, H, W).
        multiple: What both sizes shall be multiples of.

    Returns:
        (N, bands, H', W'), the image itself where its sizes are multiples already.
    """
    height, width = image.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if not below and not right:
        return image
    return F.pad(image, (0, right, 0, below), mode="replicate")
