"""What made the map that is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hrrsi import __version__
from hrrsi.networks.weights_file import content_digest, packaged_weights
from hrrsi.prediction.engines.engine import Engine


class MapSource(Protocol):
    """What made a map."""

    @property
    def name(self) -> str:
        """What it is, in a few words."""

    @property
    def sentence(self) -> str:
        """What it is, so that the map can be made again."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""


@dataclass(frozen=True)
class Inference:
    """Weights that predicted, and how.

    Attributes:
        weights: The weights as they were named; those inside the package by their file name.
        model: Name of the network.
        sha256: Digest of their content, in hexadecimal digits.
        engine: Name of the engine that ran them.
        precision: What it calculated in.
        device: What it calculated on.
    """

    weights: str
    model: str
    sha256: str
    engine: str
    precision: str
    device: str

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        return f"weights {self.weights} ({self.model})"

    @property
    def sentence(self) -> str:
        """What predicted, in words."""
        return (
            f"weights {self.weights}, sha256 {self.sha256}, run by hrrsi {__version__} with "
            f"{self.engine} on {self.device} in precision {self.precision}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "weights": self.weights,
            "weights_sha256": self.sha256,
            "hrrsi": __version__,
            "engine": self.engine,
            "precision": self.precision,
            "device": self.device,
        }


def inference_with(engine: Engine, weights: Path | None) -> Inference:
    """Return what an engine predicts with.

    Args:
        engine: The engine.
        weights: The weights that it was given; None: those inside the package.

    Raises:
        HrrsiError: The weights can't be read.
    """
    return Inference(
        packaged_weights().name if weights is None else str(weights),
        engine.meta["model"],
        content_digest(packaged_weights() if weights is None else weights),
        engine.name,
        engine.precision,
        engine.device,
    )


@dataclass(frozen=True)
class GivenMaps:
    """Maps that were there, whatever made them.

    Attributes:
        paths: Their files.
    """

    paths: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"map {self.paths[0]}{more}"

    @property
    def sentence(self) -> str:
        """Which maps they are."""
        return f"maps {', '.join(self.paths)}" if len(self.paths) > 1 else f"map {self.paths[0]}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"maps": list(self.paths)}
