"""What a training run can be told, with the published recipe as defaults."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Precision = Literal["32", "bf16", "16"]


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training run.

    Defaults are the published recipe: Vaihingen at 512 px, SGD with momentum 0.9 and a learning
    rate that decays as ``(1 - step / steps) ** 0.9``.

    Attributes:
        data: Folder of a tiled dataset.
        model: A name of `hrrsi.networks.MODEL_NAMES`.
        out: Folder of the runs; a run is the folder ``out/model``.
        epochs: Passes over the training patches.
        batch: Patches a step.
        lr: Learning rate at the first step.
        weight_decay: Weight decay of SGD.
        encoder_weights: ``imagenet``, ``none`` or a weights file.
        seed: Seed of weights, order and augmentation.
        precision: ``32``, or mixed precision in ``bf16`` or ``16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: Processes that read and augment patches.
    """

    data: Path
    model: str = "ued_bes_sfm"
    out: Path = Path("runs")
    epochs: int = 500
    batch: int = 8
    lr: float = 0.004
    weight_decay: float = 5e-4
    encoder_weights: str = "imagenet"
    seed: int = 369
    precision: Precision = "32"
    device: str = "auto"
    workers: int = 2

    @property
    def run_folder(self) -> Path:
        """The folder of this run."""
        return self.out / self.model

    def to_config(self) -> dict[str, Any]:
        """Return the options as plain data, which ``hrrsi train --config`` takes back."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
