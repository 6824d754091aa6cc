"""``hrrsi eval``: scores of weights on labelled scenes or patches, and of maps that are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hrrsi.cli.messages import (
    in_flags,
    print_line,
    print_weights,
    scene_warnings_in_one_line,
)
from hrrsi.cli.options import (
    ENGINE_FLAGS,
    OVERWRITE_FLAG,
    READING_FLAGS,
    WINDOW_FLAGS,
    Cluster,
    Flag,
    Flags,
    Layer,
    Quiet,
    Weights,
    file_list,
    names,
    takes_option_classes,
    with_layers,
)
from hrrsi.errors import OptionError
from hrrsi.evaluation.options import (
    SINGLE_PRECISION,
    EvaluationOptions,
    MapReading,
    check_combination,
)
from hrrsi.prediction.options import EngineOptions, MapOptions
from hrrsi.report import ReportOutputs

_MAPS = "Maps that are there (with --scheme)"
_CLUSTER_SCORES = "scores one weights file, without --report"
_SCENES = "Whole scenes (with --scheme)"

_EVALUATION_FLAGS: Flags = {
    "split": Flag(
        typer.Option(
            "--split",
            help="Tiled dataset: test, val or train; default: test if there is one, else val. "
            "Whole scenes: a split of the scheme, e.g. paper, or paper:val of it; default: all.",
        )
    ),
    "protocol": Flag(
        typer.Option(
            "--protocol",
            help="all: every class counts. no-clutter: clutter is dropped everywhere. published: "
            "as the networks' published table, OA counts clutter, mF1 and mIoU drop it. isprs: as "
            "the benchmark, eroded labels, clutter counts but is no part of mF1.",
        )
    ),
    "clutter": Flag(
        typer.Option("--clutter", help="Names of the classes that are clutter."),
        str,
        names,
        default="clutter",
    ),
    "scheme": Flag(
        typer.Option(
            "--scheme",
            help="dubai, potsdam, vaihingen, or your own .yaml file.",
            rich_help_panel=_SCENES,
        ),
        str | None,
    ),
    "scenes": Flag(
        typer.Option(
            "--scenes",
            help="Names or patterns of scenes, e.g. 'tile1_*,tile6_part001'.",
            rich_help_panel=_SCENES,
        ),
        str | None,
        names,
    ),
    "eroded": Flag(
        typer.Option(
            "--eroded",
            help="Score against labels with eroded class borders: the scheme's own where they are "
            "there, else eroded by discs of 3 px. The table of other protocols has both.",
            rich_help_panel=_SCENES,
        )
    ),
    "merges": Flag(
        typer.Option(
            "--merge",
            help="Join classes, e.g. 'tree+low vegetation=vegetation'.",
            rich_help_panel=_SCENES,
        ),
        list[str] | None,
    ),
    "label_format": Flag(
        typer.Option(
            "--label-format",
            help="What labels hold, if not what the scheme says.",
            rich_help_panel=_SCENES,
        )
    ),
    "unknown": Flag(
        typer.Option(
            "--unknown",
            help="What to do about labels that the scheme doesn't know; of maps, too.",
            rich_help_panel=_SCENES,
        )
    ),
    "attribute": Flag(
        typer.Option(
            "--attribute",
            help="The polygons' attribute that holds the class.",
            rich_help_panel=_SCENES,
        )
    ),
    "block": Flag(
        typer.Option(
            "--block",
            help="Rows and columns, in pixels, of the blocks that intervals are estimated from: "
            "more than what is wrong in one piece.",
            rich_help_panel=_SCENES,
        )
    ),
}
_OUTPUT_FLAGS: Flags = {
    "json": Flag(
        typer.Option("--json", help="Also write the scores, as this .json."),
        Path | None,
        is_usage=True,
    ),
    "confusion_matrix": Flag(
        typer.Option("--confusion-matrix", help="Also draw the confusion matrix, as this .png."),
        Path | None,
        is_usage=True,
    ),
    "report": Flag(
        typer.Option(
            "--report",
            help="Also write this .html: every figure, charts, and a viewer that swipes between "
            "scene, truth, map and errors. One file that needs no network.",
        ),
        Path | None,
        is_usage=True,
    ),
    "overwrite": OVERWRITE_FLAG,
}
_ENGINE_FLAGS: Flags = {
    **ENGINE_FLAGS,
    "precision": Flag(ENGINE_FLAGS["precision"].option, default=SINGLE_PRECISION.precision),
}
_MAPPING_FLAGS: Flags = {
    "augmentation": Flag(
        typer.Option(
            "--tta",
            help="Score with test-time augmentation too, in a second pass: flip (twice the time "
            "of the first) or d4 (eight times).",
            rich_help_panel=_SCENES,
        )
    ),
    **WINDOW_FLAGS,
    "bands": READING_FLAGS["bands"],
    "nodata": READING_FLAGS["nodata"],
    "crs": READING_FLAGS["crs"],
    "resample": READING_FLAGS["resample"],
    "scale": Flag(
        typer.Option(
            "--scale",
            help="Value that counts as full brightness. Default: what the rasters declare (GDAL's "
            "scale, NBITS), else the weights' own; needed for rasters of another type than the "
            "weights were trained on.",
        )
    ),
    "height": READING_FLAGS["height"],
}
_READING_FLAGS: Flags = {
    "map_format": Flag(
        typer.Option(
            "--map-format",
            help="What maps hold, if not what they look like.",
            rich_help_panel=_MAPS,
        )
    ),
    "first_index": Flag(
        typer.Option(
            "--first-index",
            help="Value of the first class in maps of class indices, e.g. 1 for those that count "
            "from 1. Default: as the scheme says.",
            rich_help_panel=_MAPS,
        )
    ),
    "aoi": Flag(
        typer.Option(
            "--aoi", help="Polygons outside of which nothing counts.", rich_help_panel=_MAPS
        ),
        Path | None,
    ),
}


Data = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="DATA",
        help="Folder of a tiled dataset; or, with --scheme, folders and zips of raw scenes "
        "and labels. Before these, two weights files to compare. With --label, two maps to "
        "compare.",
    ),
]
Format = Annotated[Literal["table", "json"], typer.Option("--format", help="What to print.")]
Maps = Annotated[
    list[Path] | None,
    typer.Option(
        "--pred",
        help="A map that is there, whatever made it, instead of weights: class colours, a "
        "palette or class indices. More than once, or a folder: maps of several scenes.",
        rich_help_panel=_MAPS,
    ),
]
Labels = Annotated[
    list[Path] | None,
    typer.Option(
        "--label",
        help="The maps' labels: a raster or polygons. More than once, or a folder: of several "
        "scenes, or full and eroded ones. Maps on another grid are laid on theirs by "
        "georeference.",
        rich_help_panel=_MAPS,
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        help="An image of a scene, to show under its map in the --report; it lies on the "
        "labels' grid. More than once, or a folder: of several scenes, named as the scheme's.",
        rich_help_panel=_MAPS,
    ),
]


@takes_option_classes
def evaluate(
    options: Annotated[EvaluationOptions, _EVALUATION_FLAGS],
    outputs: Annotated[ReportOutputs, _OUTPUT_FLAGS],
    engine: Annotated[EngineOptions, _ENGINE_FLAGS],
    reading: Annotated[MapReading, _READING_FLAGS],
    mapping: Annotated[MapOptions, _MAPPING_FLAGS],
    data: Data = None,
    weights: Weights = None,
    output: Format = "table",
    maps: Maps = None,
    labels: Labels = None,
    images: Images = None,
    layer: Layer = None,
    quiet: Quiet = False,
    cluster: Cluster = None,
) -> None:
    """Score weights on labelled data: every pixel counts once, in one confusion matrix.

    Prints precision, recall, F1 and IoU of each class, OA, mF1, mIoU and kappa with their
    intervals, the same under every protocol, boundary scores, areas adjusted for the map's errors,
    calibration, the protocol that the figures were taken under, and what predicted. With two
    weights, the differences of their scores, and how sure these are.

        hrrsi eval dataset/ --split val --weights runs/ued/best.safetensors

        hrrsi eval dubai/ --scheme dubai --split test --tta d4 --confusion-matrix matrix.png

        hrrsi eval top/ gt.zip --scheme vaihingen --split paper:val --protocol published

        hrrsi eval dubai/ --scheme dubai --split test --report report.html

        hrrsi eval old.safetensors new.safetensors dubai/ --scheme dubai --split val

        hrrsi eval --pred map.tif --label gt.tif --scheme vaihingen --aoi area.gpkg

        hrrsi eval mine.tif theirs.tif --label gt.tif --scheme vaihingen

    `--window`, `--overlap`, `--bands`, `--nodata`, `--scale` and `--height` are for whole scenes
    too. Pixels without a label are not scored; nor are those where the image (or the
    height model of weights that see one) holds no data, which are counted.
    """
    truth, areas = with_layers([layer] if layer else [], labels or [], file_list(reading.aoi))
    reading = replace(reading, aoi=next(iter(areas), None))
    systems, folders = _systems(data or [], maps or [], truth, weights)
    if images and not (truth and outputs.report):
        raise typer.BadParameter("is for maps; give --label and --report", param_hint="--image")
    with _usage_errors():
        scored_maps = [path for paths in systems for path in paths] if truth else maps or []
        check_combination(truth or folders, scored_maps, weights, options, mapping, reading)
        outputs.prepare(is_comparison=len(systems) == 2)

    from hrrsi.evaluation.evaluate import compare
    from hrrsi.report.plain_data import json_document
    from hrrsi.report.scene_views import SceneViewCollector
    from hrrsi.report.text import outcome_text
    from hrrsi.verbs import evaluate as evaluate_one

    # the page has each image once
    views = [SceneViewCollector(paths) for paths in (images or [], [])] if outputs.report else []
    observers: Sequence[SceneViewCollector | None] = views or (None, None)
    settings: dict[str, Any] = {"options": options, "mapping": mapping, "engine": engine}
    settings |= {"reading": reading, "show_progress": not quiet}
    if cluster is not None and (len(systems) == 2 or scored_maps or outputs.report):
        raise typer.BadParameter(_CLUSTER_SCORES, param_hint="--cluster")
    with scene_warnings_in_one_line():
        if len(systems) == 2:
            settings |= {"observers": observers}
            outcome: Any = compare(systems[0], systems[1], truth or folders, **settings)
        else:
            settings |= {"weights": weights, "maps": scored_maps, "observer": observers[0]}
            outcome = evaluate_one(truth or folders, cluster=cluster, **settings)
    if not (scored_maps or quiet):
        _print_systems(systems, weights)
    text = outcome_text if output == "table" else json_document
    print_line(text(outcome, in_flags))
    outputs.write(outcome, views, in_flags)
    if outputs.report is not None:
        print_line(f"{outputs.report}: open it in a browser", err=True)


def _print_systems(systems: list[list[Path]], weights: Path | None) -> None:
    files: list[Path | None] = [*(path for (path,) in systems)]
    for file in files or [weights]:
        print_weights(file)


def _systems(
    data: list[Path], maps: list[Path], labels: list[Path], weights: Path | None
) -> tuple[list[list[Path]], list[Path]]:
    """Return the maps, or the two weights to compare, and the data besides.

    Raises:
        typer.BadParameter: They are more than two, or named twice.
    """
    if labels:
        if data and maps:
            raise typer.BadParameter(
                f"goes without {data[0]}; two maps to compare stand before the options",
                param_hint="--pred",
            )
        systems = [maps] if maps else [[path] for path in data]
        if len(systems) not in (1, 2):
            raise typer.BadParameter("name one map, or two to compare", param_hint="--pred")
        return systems, []
    if maps:
        raise typer.BadParameter("needs --label", param_hint="--pred")
    from hrrsi.networks.weights_file import is_weights_file  # numpy, which --help does without

    compared = [path for path in data if is_weights_file(path)]
    if compared and len(compared) != 2:
        raise typer.BadParameter(
            "name two weights to compare, or one with --weights", param_hint="DATA"
        )
    if compared and weights is not None:
        raise typer.BadParameter(
            f"goes without {compared[0]} and {compared[1]}", param_hint="--weights"
        )
    return [[path] for path in compared], [path for path in data if path not in compared]


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Let options that don't go together be wrong usage, with exit code 2."""
    try:
        yield
    except OptionError as error:
        hint = in_flags(str(error.where))
        raise typer.BadParameter(in_flags(error.what), param_hint=hint) from error
