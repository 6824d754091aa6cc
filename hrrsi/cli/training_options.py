"""Flags that `hrrsi train` and `hrrsi pretrain` share: hardware, recipe fields, ``--config``.

What is not given is as in the recipe, or in the YAML file of options that a run leaves.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hrrsi.cli.options import DEVICE_HELP, Flag, Flags, names
from hrrsi.errors import HrrsiError, InputError
from hrrsi.runs.options import CONFIG, LAST_CHECKPOINT, Precision
from hrrsi.training.options import (
    CAMERA_CHANGES,
    FEWEST_EPOCHS,
    RECIPE_FIELDS,
    RECIPES,
    automatic_precision,
)

CONFIG_HELP = (
    "YAML file with any of these options, e.g. the config.yaml of a run, which repeats it from "
    "any folder; options of the command line win."
)


def is_on_command_line(ctx: typer.Context, option: str) -> bool:
    """Return whether the command line itself holds an option."""
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def config_defaults(ctx: typer.Context, path: Path) -> dict[str, Any]:
    """Return the options that a file holds, as click takes them for defaults.

    Args:
        ctx: Context of the command whose options they are.
        path: A YAML file: names of options, with ``-`` or ``_``, and their values.

    Raises:
        InputError: It can't be read, names an option twice or one that the command does not have,
            or holds a value that an option does not take.
    """
    from hrrsi.files import read_yaml

    options: dict[str, Any] = {
        str(p.name): p for p in ctx.command.params if p.name not in ("config", "help")
    }
    values: dict[str, Any] = {}
    for key, value in read_yaml(path).items():
        name = str(key).replace("-", "_")
        if name not in options:
            raise InputError(
                f"unknown option {key!r}", where=path, fix=f"options are {', '.join(options)}"
            )
        if name in values:
            raise InputError(f"holds {name} twice", where=path, fix="remove one")
        try:
            values[name] = _option_value(value, options[name])
            if value is not None:
                options[name].process_value(ctx, values[name])
        except typer.BadParameter as error:
            raise InputError(
                f"{key}: {value}: {error.message.rstrip('.')}", where=path, fix="correct it"
            ) from error
    if _is_of_run(path):  # which may have been moved, or copied, since it wrote the file
        values["out"] = str(path.absolute().parent.parent)
    return {name: value for name, value in values.items() if value is not None}


def _is_of_run(path: Path) -> bool:
    """Return whether a file of options is a run's own."""
    return path.name == CONFIG and (path.parent / LAST_CHECKPOINT).is_file()


def require_run_folder(ctx: typer.Context, path: Path | None, folders: Sequence[Path]) -> None:
    """Raise where a run is to be resumed by its own file of options, and is not what would be.

    Args:
        ctx: Context of the command.
        path: The file of options.
        folders: The runs that would be resumed, or started.

    Raises:
        InputError: Its folder has another name than the run's; the command line asks for no other.
    """
    naming = ("out", "model", "encoder", "overfit")
    if path is None or not _is_of_run(path) or any(is_on_command_line(ctx, n) for n in naming):
        return
    own = path.absolute().parent
    if all(folder.absolute() != own for folder in folders):
        raise InputError(
            f"is called {own.name}, where a run of these options is called {folders[0].name}",
            where=path.parent,
            fix=f"rename it, or give --out to start another run than {folders[0]}",
        )


def _option_value(value: Any, option: Any) -> Any:
    """Return a value of a file as an option takes it: a list where that can be given repeatedly.

    Raises:
        typer.BadParameter: As `_as_typed`.
    """
    takes_several = getattr(option, "multiple", False) or option.nargs == -1
    if not takes_several or value is None:
        return _as_typed(value, is_switch=getattr(option, "is_flag", False))
    items = value if isinstance(value, list) else [value]
    return [_as_typed(item, is_switch=False) for item in items]


def _as_typed(value: Any, *, is_switch: bool) -> Any:
    """Return a value of a file as the command line would have it.

    Raises:
        typer.BadParameter: It could not have it.
    """
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        raise typer.BadParameter("a mapping is no value")
    if isinstance(value, bool) and not is_switch:
        raise typer.BadParameter("to YAML, a bare yes, no, on or off is true or false; quote it")
    # `precision: 32` and `lr: 1e-3` (text to YAML) read alike
    return value if value is None or isinstance(value, bool) else str(value)


@contextmanager
def naming_config(ctx: typer.Context, path: Path | None) -> Iterator[None]:
    """Name the file in the error of an option that was taken from it.

    Raises:
        HrrsiError: What is raised within, with the file where its place begins with such an
            option.
    """
    try:
        yield
    except HrrsiError as error:
        parameter = re.match(r"`(\w+)", str(error.where))
        source = ctx.get_parameter_source(parameter[1]) if parameter else None
        if path is None or source is None or source.name != "DEFAULT_MAP":
            raise
        raise error.at(f"{path}: {error.where}") from error


def take_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the defaults of the options that the command line leaves out.

    Raises:
        InputError: As `config_defaults`.
    """
    if path is not None:
        ctx.default_map = config_defaults(ctx, path)
    return path


HARDWARE_PANEL = "Hardware"


def hardware_flags(workers: str, precision: str = "") -> Flags:
    """Return the flags of fields that option classes of runs share.

    Args:
        workers: What the workers do.
        precision: What else decides the precision ``auto``.
    """
    return {
        "device": Flag(
            typer.Option(
                "--device",
                help=DEVICE_HELP,
                rich_help_panel=HARDWARE_PANEL,
            )
        ),
        "devices": Flag(
            typer.Option(
                "--devices",
                help="Processes on each machine, each with a GPU (or, on the CPU, a share of the "
                "cores) of its own. --batch is shared out among them.",
                rich_help_panel=HARDWARE_PANEL,
            )
        ),
        "nodes": Flag(
            typer.Option(
                "--nodes",
                help="Machines. Start the same command on each with torchrun or SLURM's srun.",
                rich_help_panel=HARDWARE_PANEL,
            )
        ),
        "precision": Flag(
            typer.Option(
                "--precision",
                help="32, or mixed precision: bf16, or 16 (GPU only). auto: bf16 where the "
                f"hardware computes in it, else 32{precision}.",
                rich_help_panel=HARDWARE_PANEL,
            )
        ),
        "compile": Flag(
            typer.Option(
                "--compile/--no-compile",
                help="Compile the network and the losses first: a minute or more at the start, "
                "then faster steps. It pays on a GPU, and in long runs.",
                rich_help_panel=HARDWARE_PANEL,
            )
        ),
        "workers": Flag(typer.Option("--workers", help=workers, rich_help_panel=HARDWARE_PANEL)),
    }


RECIPE_PANEL = "Recipe: what is learned, and how"


def parsed_mix(text: str) -> tuple[float, ...]:
    """Return the numbers of ``--mix``, e.g. of ``2,1,1``.

    Raises:
        typer.BadParameter: The text is something else.
    """
    try:
        return tuple(float(share) for share in names(text))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers such as 2,1,1", param_hint="--mix"
        ) from error


def parsed_resolutions(text: str) -> tuple[float, float] | None:
    """Return the range of ``--resolutions``, e.g. of ``0.25-0.8``; None where that is ``none``.

    Raises:
        typer.BadParameter: The text is something else.
    """
    if text == "none":
        return None
    try:
        low, high = (float(end) for end in re.split("[-,]", text))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no range of metres per pixel such as 0.25-0.8", param_hint="--resolutions"
        ) from error
    return low, high


def _recipes_own(field: str) -> str:
    """Return the sentence of an option's help that says what it is where it is not given."""
    values = {name: getattr(recipe, field) for name, recipe in sorted(RECIPES.items())}
    texts = {
        name: "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in values.items()
    }
    listed = ", ".join(f"{name}: {text}" for name, text in texts.items())
    return f"Default: the recipe's ({listed})."


RecipeName = Annotated[
    Literal["published", "default"],
    typer.Option(
        "--recipe",
        help="published: the paper's, to the letter. default: what did better for as many "
        "images seen. The options below change single fields of it.",
        rich_help_panel=RECIPE_PANEL,
    ),
]
RECIPE_FLAGS: Flags = {
    "epochs": Flag(
        typer.Option(
            "--epochs",
            min=FEWEST_EPOCHS,
            help=f"Passes over the training patches. {_recipes_own('epochs')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "batch": Flag(
        typer.Option(
            "--batch",
            help="Patches a step, over all devices together. Those that would not fill an epoch's "
            "last step are left out of it, others each time. Lower it where memory runs out, and "
            f"the learning rate with it. {_recipes_own('batch')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "optimizer": Flag(
        typer.Option(
            "--optimizer",
            help="sgd has a momentum of 0.9; adamw leaves biases and BatchNorms undecayed. "
            f"{_recipes_own('optimizer')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "lr": Flag(
        typer.Option(
            "--lr",
            help=f"Highest learning rate. {_recipes_own('lr')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "weight_decay": Flag(
        typer.Option(
            "--weight-decay",
            help=f"Weight decay of the optimizer. {_recipes_own('weight_decay')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "schedule": Flag(
        typer.Option(
            "--schedule",
            help="How the learning rate falls to zero over the run, step by step: polynomial, as "
            f"(1 - step/steps)^0.9, or cosine. {_recipes_own('schedule')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "warmup": Flag(
        typer.Option(
            "--warmup",
            help="Share of the steps, 0 to 1, in which the learning rate rises from zero first. "
            f"{_recipes_own('warmup')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "average": Flag(
        typer.Option(
            "--average",
            help="Decay of a moving average of the weights, e.g. 0.99: the average is what is "
            f"validated and kept. 0: the weights themselves. {_recipes_own('average')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "augmentation": Flag(
        typer.Option(
            "--augmentation",
            help="How patches are changed each time they are seen; look at it with "
            f"--show-batches. {_recipes_own('augmentation')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "camera": Flag(
        typer.Option(
            "--camera",
            metavar="CHANGES",
            help="Make some patches look as if another camera had taken them, each time in another "
            f"way: all, or some of {', '.join(CAMERA_CHANGES)}, separated by commas. Look at one "
            f"alone with --show-batches. {_recipes_own('camera')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "resolutions": Flag(
        typer.Option(
            "--resolutions",
            metavar="FINEST-COARSEST",
            help="Scale patches to a ground resolution drawn from this range, in metres per pixel, "
            "e.g. 0.25-0.8, instead of by chance around their own: not finer than half their own "
            "pixel, not so coarse that a patch fills less than half of the crop. none: not even "
            f"where --config says so. {_recipes_own('resolutions')}",
            rich_help_panel=RECIPE_PANEL,
        ),
        kind=str | None,
        value=parsed_resolutions,
    ),
    "crop": Flag(
        typer.Option(
            "--crop",
            help="Rows and columns of what the network sees of a patch, cut out at random once the "
            "patch is scaled; 0: the whole patch, of several datasets as much as the smallest has. "
            f"{_recipes_own('crop')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "sampling": Flag(
        typer.Option(
            "--sampling",
            help="uniform: each patch once an epoch, but for those of --batch that are left out. "
            f"rare: patches with rare classes come more often. {_recipes_own('sampling')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "class_weights": Flag(
        typer.Option(
            "--class-weights",
            help="Weights of the classes in the losses: published, as 1 + (1 - frequency), or "
            f"none. {_recipes_own('class_weights')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "dice": Flag(
        typer.Option(
            "--dice",
            help="Weight of a soft Dice loss beside the cross-entropy of the segmentation. "
            f"{_recipes_own('dice')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "logit_alignment": Flag(
        typer.Option(
            "--logit-alignment",
            help="Where the network's logits, one for 4 x 4 px, lie on a patch: each in the centre "
            "of its pixels (centres), or the outermost ones on the outermost pixels (corners, as "
            "published), which puts maps up to 1.5 px off towards the borders of patches and "
            f"windows. Maps are made likewise. {_recipes_own('logit_alignment')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "distillation": Flag(
        typer.Option(
            "--distillation",
            help=f"Weight of the loss towards what --teacher says. {_recipes_own('distillation')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "temperature": Flag(
        typer.Option(
            "--temperature",
            help="What the logits of teachers and network are divided by for that loss: the "
            "higher, the more the network learns of classes that a teacher finds unlikely. "
            f"{_recipes_own('temperature')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "features": Flag(
        typer.Option(
            "--features",
            help="Weight of the loss towards the maps of the encoders of --teacher, for encoders "
            "without pre-trained weights. With --distillation 0 the teachers may have other "
            f"classes. {_recipes_own('features')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
}


def take_recipe_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the defaults of the options that the command line leaves out.

    What the file only repeats of its recipe gives way to another ``--recipe``.

    Raises:
        InputError: As `config_defaults`.
    """
    if path is None:
        return None
    defaults = config_defaults(ctx, path)
    recipe = RECIPES.get(defaults.get("recipe", ""))
    if recipe is not None:
        own = recipe.to_config()
        for name in RECIPE_FIELDS:
            if defaults.get(name) == str(own[name]):
                del defaults[name]
    ctx.default_map = defaults
    return path


def recipe_precision(
    ctx: typer.Context, recipe: str, *, precision: Precision, device: str, **_: Any
) -> Precision:
    """Return the precision to ask for: another ``--recipe`` than a file's brings its own.

    As with the recipe's fields, what the file only repeats of its recipe gives way.
    """
    file = ctx.default_map or {}
    of_file = file.get("recipe", recipe)
    if recipe == of_file or "precision" not in file or is_on_command_line(ctx, "precision"):
        return precision
    return "auto" if precision == automatic_precision(of_file, device) else precision
