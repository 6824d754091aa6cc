"""What a profile holds: figures of networks, and how they are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from hrrsi.errors import OptionError


class PublishedFigures(NamedTuple):
    """What the networks' published table says, for 6 classes at 512x512."""

    parameters: int
    gflops: float


PUBLISHED: dict[str, PublishedFigures] = {
    "ued": PublishedFigures(2_767_252, 1.44),
    "ued_bes": PublishedFigures(2_822_393, 2.19),
    "ued_bes_sfm": PublishedFigures(2_833_409, 2.37),
}
PUBLISHED_SIZE, PUBLISHED_CLASSES = 512, 6


@dataclass(frozen=True)
class Operations:
    """What one forward pass computes, all heads included.

    Attributes:
        macs: Multiply-accumulates of convolutions and matrix products, and of nothing else. Of
            encoders with attention, the products of queries, keys and values are not counted:
            they are no layers.
        published: The published "FLOPs": multiply-accumulates of convolutions, plus 1 per element
            for a convolution's bias, 2 per element of a BatchNorm and 1 per element of a ReLU;
            resizing, sampling, sigmoids, pooling, additions and products of maps count nothing.
            Linear layers count as the 1x1 convolutions that they are; other norms and activations,
            which the published networks lack, count nothing.
    """

    macs: int
    published: int


@dataclass(frozen=True)
class Latency:
    """Time and memory of a network as `hrrsi.predict` runs it: the segmentation head alone.

    Attributes:
        device: Name of the device, with the number of threads where it is a CPU.
        engine: What runs it, and in which precision.
        batch: Windows a pass.
        milliseconds: Median time of a window, from its pixels to its logits, both in main memory,
            where several are in work at once.
        megapixels_per_second: The same as a rate.
        peak_memory_bytes: GPU: most memory that PyTorch held on it. CPU: peak resident memory of
            a process that does nothing else, Python included.
    """

    device: str
    engine: str
    batch: int
    milliseconds: float
    megapixels_per_second: float
    peak_memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "device": self.device,
            "engine": self.engine,
            "batch": self.batch,
            "milliseconds_per_window": self.milliseconds,
            "megapixels_per_second": self.megapixels_per_second,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


@dataclass(frozen=True)
class Profile:
    """What a network costs for one window.

    Attributes:
        model: Name of the network.
        weights: The weights file it was read from, or None for a network by name.
        packaged: The name of the package's weights that these are, or None.
        classes: Number of classes.
        size: Rows and columns of the window.
        parameters: Number of parameters.
        operations: What one forward pass computes.
        ptflops_macs: What ptflops counts with its ``pytorch`` backend: also resizing, pooling
            and whatever else is called through Python.
        file_bytes: Size of the weights file; for a network by name that of a float32
            ``.safetensors`` without metadata.
        latency: How fast it runs here, or None where that was not measured.
        pruned: What was cut out of it (`hrrsi.networks.model_meta.ModelMeta`), or None.
    """

    model: str
    weights: str | None
    classes: int
    size: int
    parameters: int
    operations: Operations
    ptflops_macs: int
    file_bytes: int
    packaged: str | None = None
    latency: Latency | None = None
    pruned: list[dict[str, Any]] | None = None

    @property
    def published(self) -> PublishedFigures | None:
        """The published table's figures, where they are for the same channels, classes and size."""
        if self.pruned or (self.size, self.classes) != (PUBLISHED_SIZE, PUBLISHED_CLASSES):
            return None
        return PUBLISHED.get(self.model)

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain data; operations in units of 1e9."""
        published = self.published
        latency = {} if self.latency is None else {"latency": self.latency.to_dict()}
        return {
            "model": self.model,
            "weights": self.weights,
            "weights_packaged": self.packaged,
            "pruned": self.pruned,
            "classes": self.classes,
            "size": self.size,
            "parameters": self.parameters,
            "gmacs": self.operations.macs / 1e9,
            "gflops": 2 * self.operations.macs / 1e9,
            "gflops_published": self.operations.published / 1e9,
            "gflops_published_table": published and published.gflops,
            "ptflops_gmacs": self.ptflops_macs / 1e9,
            "file_bytes": self.file_bytes,
            **latency,
        }


@dataclass(frozen=True)
class ProfileOptions:
    """How networks are profiled.

    Attributes:
        classes: Number of classes of networks by name, 1 to 254.
        size: Rows and columns of the window, in pixels, at least 32.
        latency: Whether speed and peak memory are measured, which takes seconds a network.
        batch: Windows a pass where they are, at least 1.
        device: Where they are: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        OptionError: One is not usable.
    """

    classes: int = PUBLISHED_CLASSES
    size: int = PUBLISHED_SIZE
    latency: bool = False
    batch: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, value, least in (("size", self.size, 32), ("batch", self.batch, 1)):
            if value < least:
                raise OptionError(f"{value} is below {least}", parameter=name)
        if not 1 <= self.classes <= 254:
            raise OptionError(f"{self.classes} is not from 1 to 254", parameter="classes")
