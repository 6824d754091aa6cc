"""What a training run can be told, recipes (all that changes what is learned) among it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from hrrsi.errors import OptionError
from hrrsi.extras import requiring
from hrrsi.networks.architecture import LogitAlignment
from hrrsi.quantities import counted
from hrrsi.runs.options import (
    Precision,
    changes_text,
    check_least,
    check_rates,
    check_run_options,
    chosen_precision,
    plain_value,
)

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["polynomial", "cosine"]
Augmentation = Literal["published", "default", "none"]
Sampling = Literal["uniform", "rare"]
ClassWeights = Literal["published", "none"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("polynomial", "cosine"),
    "augmentation": ("published", "default", "none"),
    "sampling": ("uniform", "rare"),
    "class_weights": ("published", "none"),
    "logit_alignment": ("corners", "centres"),
}
OF_TEACHERS = ("distillation", "temperature", "features")
_SHARES = ("warmup", "average")
# In the order in which light, camera and processing make them.
CAMERA_CHANGES = (
    "haze", "blur", "resolution", "noise", "colour", "contrast", "gamma", "sharpening", "jpeg",
)  # fmt: skip
# How many times as large an augmentation makes patches, at least and at most.
ZOOMS: dict[Augmentation, tuple[float, float]] = {
    "published": (0.5, 2.0),
    "default": (0.8, 1.25),
    "none": (1.0, 1.0),
}
SMALLEST_CROP = 32
FEWEST_EPOCHS = 1
_MODEL = "ued_bes_sfm"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: The recipe that this one is, or was changed from.
        epochs: Passes over the training patches.
        batch: Patches a step, over all processes.
        optimizer: ``sgd`` (momentum 0.9) or ``adamw``.
        lr: Highest learning rate.
        weight_decay: Weight decay.
        schedule: How the learning rate falls to zero: ``polynomial``, as
            ``(1 - step / steps) ** 0.9``, or ``cosine``.
        warmup: Share of the steps, 0 to 1, in which the learning rate rises from zero.
        average: Decay of the moving average of the weights that is validated and kept, 0 to 1;
            0 keeps the weights themselves.
        augmentation: ``published``, ``default`` or ``none``.
        crop: Rows and columns of what the network sees of a scaled patch; 0: as many as the patch
            has.
        sampling: ``uniform``, or ``rare``: patches with rare classes come more often.
        class_weights: Weights of the classes in the segmentation and body losses: ``published``,
            that is ``1 + (1 - frequency)``, or ``none``.
        dice: Weight of a soft Dice loss beside the cross-entropy of the segmentation.
        camera: What makes patches look as if another camera had taken them: ``none``, ``all``, or
            names of `CAMERA_CHANGES` separated by commas (`hrrsi.training.augmentation` says what
            each does). The order in which they are given makes no difference.
        distillation: Weight of the loss towards the probabilities of teachers, where there are any.
        temperature: What the logits of network and teachers are divided by for that loss, above 0:
            the higher, the more counts which classes are unlikely, and how much so.
        features: Weight of the loss towards the maps of the teachers' encoders; 0: none. Where
            `distillation` is 0, only these are learned, and teachers may have other classes.
        logit_alignment: Where the network's logits, of which one stands for 4 x 4 px, lie on a
            patch: with the outermost ones on the outermost pixels (``corners``, as published, which
            puts maps up to 1.5 px off towards the borders of patches and windows), or each in the
            centre of its pixels (``centres``). Maps are made likewise.
        resolutions: The finest and the coarsest ground resolution, in metres per pixel, that
            patches are scaled to, instead of as the augmentation says; each time it is drawn, all
            octaves alike. None: as the augmentation says, whatever the ground resolution.

    Raises:
        OptionError: One is not usable.
    """

    name: str
    epochs: int
    batch: int
    optimizer: Optimizer
    lr: float
    weight_decay: float
    schedule: Schedule
    warmup: float
    average: float
    augmentation: Augmentation
    crop: int
    sampling: Sampling
    class_weights: ClassWeights
    dice: float
    camera: str = "none"
    distillation: float = 1.0
    temperature: float = 2.0
    features: float = 0.0
    logit_alignment: LogitAlignment = "centres"
    resolutions: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for key, choices in _CHOICES.items():
            value = getattr(self, key)
            if value not in choices:
                raise OptionError(
                    f"{value!r} is unknown", parameter=key, fix=f"give {' or '.join(choices)}"
                )
        check_least(self, {"epochs": FEWEST_EPOCHS, "batch": 1})
        if self.crop and self.crop < SMALLEST_CROP:
            raise OptionError(
                f"{self.crop} px are too few for the networks' strides",
                parameter="crop",
                fix=f"give 0 (whole patches) or at least {SMALLEST_CROP}",
            )
        for key in _SHARES:
            if not 0 <= getattr(self, key) < 1:
                raise OptionError(
                    f"{getattr(self, key)} is no share", parameter=key, fix="give 0 to below 1"
                )
        check_rates(self, ("lr", "weight_decay", "dice", *OF_TEACHERS))
        if not self.temperature:
            raise OptionError("0 is not possible", parameter="temperature", fix="give more than 0")
        if self.camera not in ("none", "all"):
            object.__setattr__(self, "camera", ",".join(_camera_changes(self.camera)))
        if self.resolutions is not None:
            low, high = self.resolutions
            if not 0 < low <= high < math.inf:
                raise OptionError(
                    f"{low:g} to {high:g} metres per pixel is no range",
                    parameter="resolutions",
                    fix="give the finest, then the coarsest",
                )

    @property
    def camera_changes(self) -> tuple[str, ...]:
        """Names of the changes of `camera`, in the order in which they are made."""
        if self.camera == "none":
            return ()
        return CAMERA_CHANGES if self.camera == "all" else tuple(self.camera.split(","))

    @property
    def described(self) -> str:
        """Its name, and what of it is changed, e.g. ``default with epochs 3, lr 0.01``."""
        return f"{self.name}{changes_text(self, RECIPES.get(self.name, self))}"

    def to_config(self) -> dict[str, Any]:
        """Return the recipe as plain data, its name as ``recipe``."""
        values = {name: plain_value(value) for name, value in asdict(self).items()}
        return {"recipe": values.pop("name"), **values}


def _camera_changes(names: str) -> list[str]:
    """Return names given for `Recipe.camera` in the order of `CAMERA_CHANGES`, each once.

    Raises:
        OptionError: One is none of them.
    """
    chosen = [name.strip() for name in names.split(",")]
    unknown = [name for name in chosen if name not in CAMERA_CHANGES]
    if unknown:
        raise OptionError(
            f"{unknown[0]!r} is unknown",
            parameter="camera",
            fix=f"give none, all, or some of {', '.join(CAMERA_CHANGES)}",
        )
    return [name for name in CAMERA_CHANGES if name in chosen]


# Section "recipe" of the published description; the paper's own numbers.
PUBLISHED = Recipe(
    name="published",
    epochs=500,
    batch=8,
    optimizer="sgd",
    lr=0.004,
    weight_decay=5e-4,
    schedule="polynomial",
    warmup=0.0,
    average=0.0,
    augmentation="published",
    crop=0,
    sampling="uniform",
    class_weights="published",
    dice=0.0,
    logit_alignment="corners",
)
DEFAULT = Recipe(
    name="default",
    epochs=100,
    batch=8,
    optimizer="adamw",
    lr=0.003,
    weight_decay=0.01,
    schedule="cosine",
    warmup=0.05,
    average=0.99,
    augmentation="default",
    crop=0,
    sampling="uniform",
    class_weights="published",
    dice=0.0,
)
RECIPES = {recipe.name: recipe for recipe in (PUBLISHED, DEFAULT)}
RECIPE_FIELDS = tuple(field.name for field in fields(Recipe) if field.name != "name")


def recipe_named(name: str, **changes: Any) -> Recipe:
    """Return a recipe, with some of it changed.

    Args:
        name: A key of `RECIPES`.
        **changes: Fields of `Recipe`; None leaves the recipe's own.

    Raises:
        OptionError: No such recipe, or a value that is not possible.
    """
    if name not in RECIPES:
        raise OptionError(
            f"{name!r} is unknown", parameter="recipe", fix=f"give {' or '.join(RECIPES)}"
        )
    return replace(RECIPES[name], **{k: v for k, v in changes.items() if v is not None})


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training run.

    Attributes:
        data: Folder of a tiled dataset, or folders of several.
        model: Name of a network (`hrrsi.networks.architecture`). ``auto`` becomes that of the
            weights inside the package where `init` names some, else ``ued_bes_sfm``.
        out: Folder of the runs; a run is the folder ``out/model``, or ``out/model-overfit``.
        recipe: What is learned, and how.
        encoder_weights: What the encoder starts from: ``imagenet``, ``none`` or a file.
        init: Weights that the whole network starts from, as far as they fit: a file, or the name of
            weights inside the package (``default``, ``light``); None: none.
        teachers: Weights files of networks with the same classes, whose probabilities (the mean of
            theirs) the network learns too, on every pixel, with or without a label.
        freeze_encoder: Epochs in which the encoder keeps its weights.
        seed: Seed of weights, order and augmentation, 0 to 2**32 - 1.
        patience: Epochs without a better validation mIoU after which the run ends; 0: never.
        overfit: Train and validate on this many training patches, as they are; 0: on all.
        precision: ``32``, or mixed precision in ``bf16`` or ``16``. ``auto`` becomes ``bf16``
            where the device has instructions for it, else (and for the published recipe) ``32``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        devices: Processes on this machine, each with a device of its own.
        nodes: Machines.
        compile: Compile the network and the losses before the first step.
        workers: Processes that read and augment patches, for each device.
        mix: Of several datasets, the share of each in the patches drawn, in any unit, 0 for one
            that is only validated on; empty: as many as each has.

    Raises:
        OptionError: One is not usable.
        DeviceError: `precision` is ``auto``, and there is no such device here.
        DependencyError: `precision` is ``auto``, and PyTorch is not installed.
    """

    data: Path | Sequence[Path]
    model: str = "auto"
    out: Path = Path("runs")
    recipe: Recipe = DEFAULT
    encoder_weights: str = "imagenet"
    init: Path | None = None
    teachers: tuple[Path, ...] = ()
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
    mix: Sequence[float] = ()

    def __post_init__(self) -> None:
        """Check the options, and choose model and precision: a run says and keeps what it had."""
        object.__setattr__(self, "mix", tuple(map(float, self.mix)))
        if not isinstance(self.data, Path):
            folders = tuple(self.data)
            object.__setattr__(self, "data", folders[0] if len(folders) == 1 else folders)
        self._check_data()
        check_run_options(self)
        check_least(self, {"patience": 0, "freeze_encoder": 0, "overfit": 0})
        object.__setattr__(self, "teachers", tuple(map(Path, self.teachers)))
        if self.teachers and not (self.recipe.distillation or self.recipe.features):
            raise OptionError(
                "0 leaves nothing to learn from `teachers`",
                parameter="distillation",
                fix="give more than 0, or `features`, or leave out `teachers`",
            )
        if self.model == "auto":
            object.__setattr__(self, "model", _automatic_model(self.init))
        if self.precision == "auto":
            with requiring("train", "training"):
                chosen = automatic_precision(self.recipe.name, self.device)
            object.__setattr__(self, "precision", chosen)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of its datasets."""
        return (self.data,) if isinstance(self.data, Path) else tuple(self.data)

    @property
    def items(self) -> str:
        """What it is trained on."""
        return "patches"

    @property
    def init_file(self) -> Path | None:
        """The weights file of `init`, of the package where it names some."""
        from hrrsi.networks.weights_file import weights_path  # numpy, which --help does without

        return None if self.init is None else weights_path(self.init)

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
        if self.init is not None and _is_packaged(self.init):
            config["init"] = str(self.init)  # the name, which holds on any machine
        if len(self.folders) == 1:
            del config["mix"]
        if self.encoder_weights not in ("imagenet", "none"):
            config["encoder_weights"] = plain_value(Path(self.encoder_weights))
        return config

    def _check_data(self) -> None:
        folders = self.folders
        if not folders:
            raise OptionError("names no folder", parameter="data", fix="name a tiled dataset")
        places = [folder.resolve() for folder in folders]
        twice = [folder for folder, p in zip(folders, places, strict=True) if places.count(p) > 1]
        if twice:
            raise OptionError(
                f"holds {twice[0]} twice",
                parameter="data",
                fix="name each dataset once; `mix` says how much is drawn of it",
            )
        if not self.mix:
            return
        if len(folders) == 1:
            raise OptionError(
                "goes with several datasets", parameter="mix", fix="leave it out, or name more"
            )
        if len(self.mix) != len(folders):
            raise OptionError(
                f"has {counted(len(self.mix), 'share')} for {len(folders)} datasets",
                parameter="mix",
                fix="give one for each, in their order",
            )
        impossible = [share for share in self.mix if not 0 <= share < math.inf]
        if impossible or not any(self.mix):
            raise OptionError(
                f"{impossible[0]:g} is no share" if impossible else "draws from no dataset",
                parameter="mix",
                fix="give numbers of 0 or more, one of them above 0",
            )


def _automatic_model(init: Path | None) -> str:
    """Return the network of a run that is not told one."""
    if init is None or not _is_packaged(init):
        return _MODEL
    from hrrsi.networks.weights_file import weights_path
    from hrrsi.networks.weights_reading import read_meta

    return read_meta(weights_path(init)).model


def _is_packaged(init: Path) -> bool:
    from hrrsi.networks.weights_file import is_packaged_name  # numpy, which --help does without

    return is_packaged_name(init)


def automatic_precision(recipe: str, device: str) -> Precision:
    """Return the precision of a run that is not told one.

    Args:
        recipe: Name of its recipe.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        HrrsiError: No such device here.
    """
    return "32" if recipe == PUBLISHED.name else chosen_precision("auto", device)
