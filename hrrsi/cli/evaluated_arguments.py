"""What ``hrrsi eval`` refuses of its arguments, before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

_WEIGHTS_OPTIONS = ("weights", "tta", "window", "overlap", "bands", "nodata", "scale", "height")
_SUFFIXES = {"--confusion-matrix": ".png", "--report": ".html", "--json": ".json"}
_WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt")
_SCENE_OPTIONS = (
    "scenes",
    "eroded",
    "merge",
    "label_format",
    "attribute",
    "unknown",
    "window",
    "overlap",
    "bands",
    "nodata",
    "scale",
    "height",
    "tta",
    "block",
)


def given_maps(
    ctx: typer.Context,
    data: list[Path],
    pred: list[Path],
    label: list[Path],
    scheme: str | None,
) -> list[list[Path]]:
    """Return what was named of each map that is there: none where weights make it, else one or two.

    Raises:
        typer.BadParameter: They lack their labels or a scheme, or are more than two.
    """
    if not label:
        if pred:
            raise typer.BadParameter("needs --label", param_hint="--pred")
        for option in ("aoi", "map_format"):
            if ctx.params[option] is not None:
                raise typer.BadParameter(
                    "is for maps; give --pred and --label",
                    param_hint=f"--{option.replace('_', '-')}",
                )
        return []
    if scheme is None:
        raise typer.BadParameter("needs --scheme", param_hint="--label")
    if data and pred:
        raise typer.BadParameter(
            f"goes without {data[0]}; two maps to compare stand before the options",
            param_hint="--pred",
        )
    maps = [pred] if pred else [[path] for path in data]
    if not 1 <= len(maps) <= 2:
        raise typer.BadParameter("name one map, or two to compare", param_hint="--pred")
    for option in _WEIGHTS_OPTIONS:
        if _was_typed(ctx, option):
            raise typer.BadParameter(
                "is for weights, not for maps that are there", param_hint=f"--{option}"
            )
    return maps


def compared_weights(data: list[Path], weights: Path | None) -> list[Path]:
    """Return the two weights that stand among the data, or none.

    Raises:
        typer.BadParameter: One does, or more than two, or --weights names others.
    """
    compared = [path for path in data if path.suffix.lower() in _WEIGHTS]
    if compared and len(compared) != 2:
        raise typer.BadParameter(
            "name two weights to compare, or one with --weights", param_hint="DATA"
        )
    if compared and weights is not None:
        raise typer.BadParameter(
            f"goes without {compared[0]} and {compared[1]}", param_hint="--weights"
        )
    return compared


def refuse_scene_options(ctx: typer.Context, data: list[Path]) -> None:
    """Raise unless the data is one tiled dataset, and no option is for whole scenes.

    Raises:
        typer.BadParameter: It isn't, or one is.
    """
    if len(data) != 1:
        raise typer.BadParameter("name one tiled dataset, or give --scheme", param_hint="DATA")
    for option in _SCENE_OPTIONS:
        if _was_typed(ctx, option):
            raise typer.BadParameter(
                "is for whole scenes; give --scheme too",
                param_hint=f"--{option.replace('_', '-')}",
            )


def _was_typed(ctx: typer.Context, option: str) -> bool:
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def require_outputs(outputs: Mapping[str, Path | None], *, overwrite: bool) -> None:
    """Raise unless all outputs can be written; their folders are made.

    Args:
        outputs: By the options that name them; None where one was not asked for.
        overwrite: Whether they may be there.

    Raises:
        typer.BadParameter: One has another suffix than it needs, or two are one.
        HrrsiError: One is there already, or its folder can't be made.
    """
    from hrrsi.errors import HrrsiError
    from hrrsi.files import prepare_folder, refuse_existing

    options: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        suffix = _SUFFIXES[option]
        if path.suffix.lower() != suffix:
            raise typer.BadParameter(f"name a {suffix} file", param_hint=option)
        first = options.setdefault(path.resolve(), option)
        if first != option:
            raise typer.BadParameter(f"names the file of {first}", param_hint=option)
        if path.is_dir():
            raise HrrsiError("is a folder", where=path, fix="name a file in it")
        refuse_existing(path, overwrite=overwrite)
        prepare_folder(path.parent)
