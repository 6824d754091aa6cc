"""The network as a step of the pipeline: normalised pixels in, class probabilities out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hrrsi.errors import HrrsiError
from hrrsi.networks import UED


class TorchEngine:
    """Runs a network with PyTorch in float32.

    The convolutions run channels-last, which is faster on both devices. Reduced precision is left
    off, TF32 included: it changes labels.

    Args:
        network: The network; it is moved to `device` and put in eval mode.
        device: Where it runs.

    Raises:
        HrrsiError: The network does not fit into the device's memory.
    """

    def __init__(self, network: UED, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._network = network.eval()
        try:
            # torch's stubs lack this overload
            self._network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self.device) from error

    def probabilities(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the class probabilities of a batch of windows.

        Args:
            pixels: (N, bands, H, W), normalised.

        Returns:
            (N, classes, H, W) float32 in [0, 1], adding up to 1 over the classes.

        Raises:
            HrrsiError: The batch does not fit into the device's memory.
        """
        batch = torch.from_numpy(pixels)
        try:
            with (
                torch.inference_mode(),
                torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            ):
                batch = batch.to(self.device).contiguous(memory_format=torch.channels_last)
                probabilities: npt.NDArray[np.float32] = (
                    self._network.segment(batch).contiguous().softmax(dim=1).cpu().numpy()
                )
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self.device) from error
        if not np.isfinite(probabilities).all():
            raise HrrsiError(
                "the network's output is not finite: the raster holds values far beyond its scale",
                fix="name the value of pixels without data with --nodata, or correct --scale",
            )
        return probabilities


def _out_of_memory(device: torch.device) -> HrrsiError:
    return HrrsiError(f"out of memory on {device}", fix="lower --batch or --window")
