"""Options of ``hrrsi train`` that change single fields of a recipe.

What is not given is as in the recipe.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hrrsi.cli.config_option import config_defaults, is_given
from hrrsi.cli.option_classes import Flag, Flags
from hrrsi.runs.options import Precision
from hrrsi.training.options import automatic_precision
from hrrsi.training.recipes import RECIPE_FIELDS, RECIPES

RECIPE_PANEL = "Recipe: what is learned, and how"


def _recipes_own(field: str) -> str:
    """Return the sentence of an option's help that says what it is where it is not given."""
    values = {
        name: f"{value:g}" if isinstance(value := getattr(recipe, field), float) else str(value)
        for name, recipe in RECIPES.items()
    }
    said = ", ".join(f"{name}: {values[name]}" for name in sorted(values))
    return f"Default: the recipe's ({said})."


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
            min=1,
            help=f"Passes over the training patches. {_recipes_own('epochs')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "batch": Flag(
        typer.Option(
            "--batch",
            min=1,
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
            min=0.0,
            help=f"Highest learning rate. {_recipes_own('lr')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "weight_decay": Flag(
        typer.Option(
            "--weight-decay",
            min=0.0,
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
            min=0.0,
            help="Share of the steps, 0 to 1, in which the learning rate rises from zero first. "
            f"{_recipes_own('warmup')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "average": Flag(
        typer.Option(
            "--average",
            min=0.0,
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
    "crop": Flag(
        typer.Option(
            "--crop",
            min=0,
            help="Rows and columns of what the network sees of a patch, cut out at random once the "
            f"patch is scaled; 0: the whole patch. {_recipes_own('crop')}",
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
            min=0.0,
            help="Weight of a soft Dice loss beside the cross-entropy of the segmentation. "
            f"{_recipes_own('dice')}",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
}


def take_recipe_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the defaults of the options that the command line leaves out.

    What the file only repeats of its recipe gives way to another ``--recipe``.
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
    if recipe == of_file or "precision" not in file or is_given(ctx, "precision"):
        return precision
    return "auto" if precision == automatic_precision(of_file, device) else precision
