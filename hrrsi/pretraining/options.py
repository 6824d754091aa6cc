"""What a pre-training run can be told."""

from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from hrrsi.errors import DependencyError, OptionError
from hrrsi.extras import requiring
from hrrsi.runs.options import (
    Precision,
    changes_text,
    check_least,
    check_rates,
    check_run_options,
    chosen_precision,
    plain_value,
)

Loader = Literal["auto", "torchvision", "dali"]
SMALLEST_CROP = 32


@dataclass(frozen=True)
class PretrainRecipe:
    """How an encoder is pre-trained; the defaults are the published recipe.

    Attributes:
        epochs: Passes over the training images.
        batch: Images a step, over all processes.
        lr: Learning rate of SGD; a tenth of it, a hundredth and a thousandth after each quarter
            of the steps, which is after epochs 30, 60 and 90 of 120.
        momentum: Momentum of SGD, 0 to 1.
        weight_decay: Weight decay, of all parameters.
        label_smoothing: Share of the target that is spread over all classes, 0 to 1.
        size: Rows and columns of training crops, 32 or more.
        val_size: Rows and columns of validation crops, 32 or more.

    Raises:
        OptionError: One is not usable.
    """

    epochs: int = 120
    batch: int = 512
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    size: int = 224
    val_size: int = 256

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch": 1, "size": SMALLEST_CROP, "val_size": SMALLEST_CROP}
        check_least(self, least)
        check_rates(self, ("lr", "weight_decay"))
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(
                    f"{getattr(self, name)} is no share", parameter=name, fix="give 0 to 1"
                )

    @property
    def described(self) -> str:
        """What it is, and what of it is changed."""
        return f"published{changes_text(self, PretrainRecipe())}"


@dataclass(frozen=True)
class PretrainOptions:
    """Options of a pre-training run.

    Attributes:
        data: Folder of ``train`` and ``val``, each with a folder of images a class.
        encoder: timm's name of a network; ``ghostnet_NNN`` is GhostNet at width NNN / 100.
        out: Folder of the runs; a run is the folder ``out/encoder``.
        recipe: What is learned, and how.
        seed: Seed of weights, order, crops and flips, 0 to 2**32 - 1.
        loader: What reads, decodes and crops images: ``torchvision`` or ``dali``; ``auto`` becomes
            ``dali`` where it is installed.
        precision: ``32``, or mixed precision in ``bf16`` or ``16``; ``auto`` becomes ``bf16`` where
            the device has instructions for it, else ``32``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        devices: Processes on this machine, each with a device of its own.
        nodes: Machines.
        compile: Compile the network before the first step.
        workers: Processes (of torchvision) or threads (of DALI) that read and decode, for each
            device.

    Raises:
        OptionError: One is not usable.
        DeviceError: `precision` is ``auto``, and there is no such device here.
        DependencyError: `loader` or `precision` is ``auto``, and PyTorch is not installed.
    """

    data: Path
    encoder: str = "ghostnet_100"
    out: Path = Path("pretrained")
    recipe: PretrainRecipe = PretrainRecipe()
    seed: int = 369
    loader: Loader = "auto"
    precision: Precision = "32"
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    compile: bool = False
    workers: int = 4

    def __post_init__(self) -> None:
        """Check the options, and choose loader and precision: a run says and keeps its own."""
        check_run_options(self)
        if self.loader not in get_args(Loader):
            raise OptionError(
                f"{self.loader!r} is unknown",
                parameter="loader",
                fix=f"give {' or '.join(get_args(Loader))}",
            )
        if self.loader == "auto":
            object.__setattr__(self, "loader", "dali" if has_dali() else "torchvision")
        with requiring("train", "pre-training"):
            precision = chosen_precision(self.precision, self.device)
        object.__setattr__(self, "precision", precision)

    @property
    def model(self) -> str:
        """What is trained."""
        return self.encoder

    @property
    def items(self) -> str:
        """What it is trained on."""
        return "images"

    @property
    def run_folder(self) -> Path:
        """The folder of this run."""
        return self.out / self.encoder

    def to_config(self) -> dict[str, Any]:
        """Return the options as plain data, which ``hrrsi pretrain --config`` takes back."""
        config: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, PretrainRecipe):
                config |= asdict(value)
            else:
                config[field.name] = plain_value(value)
        return config


def learning_rate_share(step: int, steps: int) -> float:
    """Return the share of the learning rate that a step uses.

    Args:
        step: Number of steps done before.
        steps: Steps of the whole run.
    """
    return float(0.1 ** sum(4 * step >= quarter * steps for quarter in (1, 2, 3)))


def require_dali() -> None:
    """Raise unless DALI is installed.

    Raises:
        DependencyError: It is not, or does not run here.
    """
    try:
        imported_dali()
    except ImportError as error:
        missing = DependencyError(f"NVIDIA DALI can't be imported ({error})", extra="dali")
        hint = "or give `loader=torchvision`"
        raise missing.at("`loader=dali`").with_note(hint) from error


def has_dali() -> bool:
    """Return whether DALI is installed and runs here."""
    try:
        require_dali()
    except DependencyError:
        return False
    return True


def imported_dali() -> Any:
    """Return DALI, an extra, whose hints know little of what it has."""
    return import_module("nvidia.dali")
