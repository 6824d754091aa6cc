"""Kernels of a first layer for images with another number of bands."""

import torch


def adapted_to_bands(kernels: torch.Tensor, bands: int) -> torch.Tensor:
    """Return the kernels of a first convolution for images with another number of bands.

    As timm does it: one band gets the sum over all; more bands repeat those that there are, in
    their order, fewer take the first, and the result is scaled by the ratio of their numbers. So
    its response to grey images stays what it was for one band and where all bands repeat equally
    often; else it is as large on average, over networks whose bands weigh alike.

    Args:
        kernels: (outputs, bands, height, width).
        bands: Bands of the images.

    Returns:
        (outputs, `bands`, height, width).
    """
    before = kernels.shape[1]
    if before == bands:
        return kernels
    if bands == 1:
        return kernels.sum(dim=1, keepdim=True)
    repeated = kernels.repeat(1, -(-bands // before), 1, 1)[:, :bands]
    return repeated * (before / bands)
