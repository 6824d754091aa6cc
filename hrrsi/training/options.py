"""What a training run can be told."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hrrsi.runs.options import Precision, chosen_precision, plain_value
from hrrsi.training.recipes import DEFAULT, PUBLISHED, Recipe


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training run.

    Attributes:
        data: Folder of a tiled dataset.
        model: Name of a network (`hrrsi.networks.names`).
        out: Folder of the runs; a run is the folder ``out/model``, or ``out/model-overfit``.
        recipe: What is learned, and how.
        encoder_weights: What the encoder starts from: ``imagenet``, ``none`` or a file.
        init: Weights file that the whole network starts from, as far as it fits, or None.
        freeze_encoder: Epochs in which the encoder keeps its weights.
        seed: Seed of weights, order and augmentation.
        patience: Epochs without a better validation mIoU after which the run ends; 0: never.
        overfit: Train and validate on this many training patches, as they are; 0: on all.
        precision: ``32``, or mixed precision in ``bf16`` or ``16``. ``auto`` becomes ``bf16``
            where the device has instructions for it, else (and for the published recipe) ``32``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        devices: Processes on this machine, each with a device of its own.
        nodes: Machines.
        compile: Compile the network and the losses before the first step.
        workers: Processes that read and augment patches, for each device.
    """

    data: Path
    model: str = "ued_bes_sfm"
    out: Path = Path("runs")
    recipe: Recipe = DEFAULT
    encoder_weights: str = "imagenet"
    init: Path | None = None
    freeze_encoder: int = 0
    seed: int = 369
    patience: int = 0
    overfit: int = 0
    precision: Precision = "auto"
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    compile: bool = False
    workers: int = 2

    def __post_init__(self) -> None:
        """Choose the precision, so that a run says and keeps which one it had."""
        if self.precision == "auto":
            chosen = automatic_precision(self.recipe.name, self.device)
            object.__setattr__(self, "precision", chosen)

    @property
    def items(self) -> str:
        """What it is trained on."""
        return "patches"

    @property
    def run_folder(self) -> Path:
        """The folder of this run."""
        return self.out / (f"{self.model}-overfit" if self.overfit else self.model)

    def to_config(self) -> dict[str, Any]:
        """Return the options as plain data, which ``hrrsi train --config`` takes back."""
        config: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Recipe):
                config |= value.to_config()
            else:
                config[field.name] = plain_value(value)
        if self.encoder_weights not in ("imagenet", "none"):
            config["encoder_weights"] = plain_value(Path(self.encoder_weights))
        return config


def automatic_precision(recipe: str, device: str) -> Precision:
    """Return the precision of a run that is not told one.

    Args:
        recipe: Name of its recipe.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        HrrsiError: No such device here.
    """
    return "32" if recipe == PUBLISHED.name else chosen_precision("auto", device)
