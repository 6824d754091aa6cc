"""``hrrsi eval``: scores of weights on labelled scenes or patches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hrrsi.cli.evaluated_arguments import (
    compared_weights,
    given_maps,
    refuse_scene_options,
    require_outputs,
)
from hrrsi.cli.messages import in_flags, scene_warnings_in_one_line
from hrrsi.cli.options import (
    Bands,
    Device,
    Engine,
    Height,
    Nodata,
    Overlap,
    Overwrite,
    Precision,
    Quiet,
    Scale,
    Threads,
    Weights,
    WindowBatch,
    WindowSize,
    integers,
    names,
)
from hrrsi.evaluation.protocols import DEFAULT_BLOCK, LabelKind, ProtocolName
from hrrsi.scenes.windows import DEFAULT_WINDOW

if TYPE_CHECKING:
    from hrrsi.cli.evaluated_data import Evaluated
    from hrrsi.evaluation.result import Comparison
    from hrrsi.prediction.engines import engine as engines
    from hrrsi.report.evaluated_map import EvaluatedMap

_MATRIX = "--confusion-matrix"
_MAPS = "Maps that are there (with --scheme)"
_SCENES = "Whole scenes (with --scheme)"


def evaluate(
    ctx: typer.Context,
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DATA",
            help="Folder of a tiled dataset; or, with --scheme, folders and zips of raw scenes "
            "and labels. Before these, two weights files to compare. With --label, two maps to "
            "compare.",
        ),
    ] = None,
    weights: Weights = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="Tiled dataset: test, val or train; default: test if there is one, else val. "
            "Whole scenes: a split of the scheme, e.g. paper, or paper:val of it; default: all.",
        ),
    ] = None,
    protocol: Annotated[
        ProtocolName,
        typer.Option(
            "--protocol",
            help="all: every class counts. no-clutter: clutter is dropped everywhere. published: "
            "as the networks' published table, OA counts clutter, mF1 and mIoU drop it. isprs: as "
            "the benchmark, eroded labels, clutter counts but is no part of mF1.",
        ),
    ] = "all",
    clutter: Annotated[
        str, typer.Option("--clutter", help="Names of the classes that are clutter.")
    ] = "clutter",
    output: Annotated[
        Literal["table", "json"], typer.Option("--format", help="What to print.")
    ] = "table",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the scores, as this .json.")
    ] = None,
    confusion_matrix: Annotated[
        Path | None,
        typer.Option("--confusion-matrix", help="Also draw the confusion matrix, as this .png."),
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Also write this .html: every figure, charts, and a viewer that swipes between "
            "scene, truth, map and errors. One file that needs no network.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    engine: Engine = "auto",
    precision: Precision = "32",
    threads: Threads = None,
    batch: WindowBatch = None,
    device: Device = "auto",
    quiet: Quiet = False,
    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme",
            help="dubai, potsdam, vaihingen, or your own .yaml file.",
            rich_help_panel=_SCENES,
        ),
    ] = None,
    scenes: Annotated[
        str | None,
        typer.Option(
            "--scenes",
            help="Names or patterns of scenes, e.g. 'tile1_*,tile6_part001'.",
            rich_help_panel=_SCENES,
        ),
    ] = None,
    eroded: Annotated[
        bool,
        typer.Option(
            "--eroded",
            help="Score against labels with eroded class borders: the scheme's own where they are "
            "there, else eroded by discs of 3 px. The table of other protocols has both.",
            rich_help_panel=_SCENES,
        ),
    ] = False,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            "--merge",
            help="Join classes, e.g. 'tree+low vegetation=vegetation'.",
            rich_help_panel=_SCENES,
        ),
    ] = None,
    label_format: Annotated[
        Literal["colours", "indices", "polygons"] | None,
        typer.Option(
            "--label-format",
            help="What labels hold, if not what the scheme says.",
            rich_help_panel=_SCENES,
        ),
    ] = None,
    unknown: Annotated[
        Literal["error", "ignore"],
        typer.Option(
            "--unknown",
            help="What to do about labels that the scheme doesn't know; of maps, too.",
            rich_help_panel=_SCENES,
        ),
    ] = "error",
    attribute: Annotated[
        str | None,
        typer.Option(
            "--attribute",
            help="The polygons' attribute that holds the class.",
            rich_help_panel=_SCENES,
        ),
    ] = None,
    tta: Annotated[
        Literal["none", "flip", "d4"],
        typer.Option(
            "--tta",
            help="Score with test-time augmentation too, in a second pass: flip (twice the time "
            "of the first) or d4 (eight times).",
            rich_help_panel=_SCENES,
        ),
    ] = "none",
    block: Annotated[
        int,
        typer.Option(
            "--block",
            min=16,
            help="Rows and columns, in pixels, of the blocks that intervals are estimated from: "
            "more than what is wrong in one piece.",
            rich_help_panel=_SCENES,
        ),
    ] = DEFAULT_BLOCK,
    pred: Annotated[
        list[Path] | None,
        typer.Option(
            "--pred",
            help="A map that is there, whatever made it, instead of weights: class colours, a "
            "palette or class indices. More than once, or a folder: maps of several scenes.",
            rich_help_panel=_MAPS,
        ),
    ] = None,
    label: Annotated[
        list[Path] | None,
        typer.Option(
            "--label",
            help="The maps' labels: a raster or polygons. More than once, or a folder: of several "
            "scenes, or full and eroded ones. Maps on another grid are laid on theirs by "
            "georeference.",
            rich_help_panel=_MAPS,
        ),
    ] = None,
    map_format: Annotated[
        Literal["colours", "indices"] | None,
        typer.Option(
            "--map-format",
            help="What maps hold, if not what they look like.",
            rich_help_panel=_MAPS,
        ),
    ] = None,
    aoi: Annotated[
        Path | None,
        typer.Option(
            "--aoi", help="Polygons outside of which nothing counts.", rich_help_panel=_MAPS
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            help="An image of a scene, to show under its map in the --report; it lies on the "
            "labels' grid. More than once, or a folder: of several scenes, named as the scheme's.",
            rich_help_panel=_MAPS,
        ),
    ] = None,
    window: WindowSize = DEFAULT_WINDOW,
    overlap: Overlap = None,
    bands: Bands = None,
    nodata: Nodata = None,
    scale: Scale = None,
    height: Height = None,
) -> None:
    """Score weights on labelled data: every pixel counts once, in one confusion matrix.

    Prints precision, recall, F1 and IoU of each class, OA, mF1, mIoU and kappa with their
    intervals, the same under other protocols, boundary scores, areas adjusted for the map's errors,
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
    too. Pixels without a label are not scored; nor are those where the image (or the height model
    of weights that see one) holds no data, which are counted.
    """
    import json

    labels = label or []
    given = given_maps(ctx, data or [], pred or [], labels, scheme)
    if image and not (given and report_file):
        raise typer.BadParameter("is for maps; give --label and --report", param_hint="--image")
    compared = [] if given else compared_weights(data or [], weights)
    folders = [path for path in data or [] if path not in compared]
    if not folders and not given:
        raise typer.BadParameter("name what to evaluate", param_hint="DATA")
    if scheme is None:
        refuse_scene_options(ctx, folders)
    if len(compared) + len(given) > 1 and confusion_matrix is not None:
        raise typer.BadParameter("is for one map; --report has both", param_hint=_MATRIX)
    outputs = {_MATRIX: confusion_matrix, "--report": report_file, "--json": json_file}
    require_outputs(outputs, overwrite=overwrite)
    from hrrsi.cli.evaluated_data import (
        SceneQuestion,
        evaluated_dataset,
        evaluated_maps,
        evaluated_scenes,
        few,
        warn,
    )
    from hrrsi.evaluation.evaluation import MapFiles, MapSource, inference_with, require_labels
    from hrrsi.evaluation.map_evaluation import MapReading
    from hrrsi.evaluation.protocols import named_protocol
    from hrrsi.evaluation.result import Comparison, EvaluationResult
    from hrrsi.evaluation.scene_evaluation import SceneReading
    from hrrsi.files import replacing
    from hrrsi.labels.scheme import load_scheme, merged_classes
    from hrrsi.networks.weights_file import packaged_weights
    from hrrsi.prediction.engines.opening import open_engine
    from hrrsi.prediction.options import EngineOptions
    from hrrsi.report.evaluated_map import EvaluatedMap, map_names
    from hrrsi.report.plain_data import comparison_data, evaluation_data
    from hrrsi.report.sentences import sentence
    from hrrsi.report.text import comparison_text, evaluation_text

    kept = integers(bands, "--bands")
    question = scheme and SceneQuestion(
        data=folders,
        scheme=load_scheme(scheme).read_as(label_format, attribute),
        reading=SceneReading(
            merges=tuple(merge or ()),
            unknown=unknown,
            bands=tuple(kept) if kept else None,
            nodata=nodata,
            scale=scale,
            height=height,
        ),
        split=split,
        scenes=names(scenes),
        window=window,
        overlap=overlap,
        augmentation=tta,
        block=block,
        has_views=report_file is not None,
        quiet=quiet,
    )
    clutter_names = tuple(names(clutter))
    if question:
        merged = merged_classes(question.scheme, question.reading.merges)
        named_protocol(protocol, merged.names, clutter_names)

    def opened(path: Path | None) -> engines.Engine:
        runner = open_engine(path, EngineOptions(engine, precision, device, threads, batch))
        if not question:  # before hours of work
            named_protocol(protocol, runner.meta["classes"], clutter_names)
        return runner

    def evaluated(name: str, path: Path | None, runner: engines.Engine) -> EvaluatedMap:
        inference = inference_with(runner, path)  # now: the file may change meanwhile
        with scene_warnings_in_one_line():
            found = (
                evaluated_scenes(question, runner)
                if question
                else evaluated_dataset(folders[0], runner, split=split, quiet=quiet)
            )
        return shown(name, found, inference)

    def read(name: str, paths: list[Path]) -> EvaluatedMap:
        others = [path for one in given if one is not paths for path in one]
        assert question
        reading = MapReading(tuple(merge or ()), unknown, map_format, aoi)
        with scene_warnings_in_one_line():
            pictures = image or [] if paths is given[0] else []  # the page has each once
            found = evaluated_maps(paths, labels, question, reading, others, given[0], pictures)
        return shown(name, found, MapFiles(found.maps, tuple(paths)))

    def shown(name: str, found: Evaluated, source: MapSource) -> EvaluatedMap:
        evaluation = found.evaluation
        kind: LabelKind = "eroded" if eroded else evaluation.labels
        classes = evaluation.counts.scenes[0].classes
        chosen = named_protocol(protocol, classes, clutter_names, kind)
        report = EvaluationResult(evaluation, chosen, source, found.augmented, clutter_names)
        where = f"{(labels or folders)[0]}, {report.labels_text}"
        require_labels(evaluation.counts, chosen.labels, where)
        if evaluation.labels == "eroded" and question and not eroded:
            warn("the labels are eroded ones, there are no full ones: borders are not scored")
        if evaluation.seen_in_training:
            warn(f"the weights were trained on {few(evaluation.seen_in_training)}")
        return EvaluatedMap(name, report, found.views)

    systems: list[Path | None] = [] if given else [*compared] or [weights]
    files = [path or packaged_weights() for path in systems]
    called = map_names(given or [[path] for path in files])
    runners = [opened(path) for path in systems]
    maps = [*map(evaluated, called, systems, runners), *map(read, called, given)]
    reports = [one.report for one in maps]
    comparison = Comparison(*reports) if len(reports) == 2 else None
    if comparison is not None:
        content = comparison_data(comparison, in_flags)
        table = comparison_text(comparison, in_flags) if output == "table" else ""
    else:
        content = evaluation_data(reports[0])
        table = evaluation_text(reports[0]) if output == "table" else ""
    document = _printable(json.dumps(content, indent=2, ensure_ascii=False))
    typer.echo(_printable(table) or document)
    if json_file is not None:
        with replacing(json_file) as temporary:
            temporary.write_text(document + "\n", encoding="utf-8")
    if confusion_matrix is not None:
        from hrrsi.report.confusion_plot import write_confusion_plot

        caption = f"Protocol {reports[0].protocol.name!r}: {sentence(reports[0])}."
        write_confusion_plot(reports[0].matrix, caption, confusion_matrix)
    if report_file is not None:
        _write_report(report_file, maps, files, comparison)


def _printable(text: str) -> str:
    """Return a text with question marks for what of files' names is no text."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _write_report(
    path: Path,
    maps: list[EvaluatedMap],
    weights: list[Path],
    comparison: Comparison | None,
) -> None:
    """Write the HTML page, with model cards and training curves."""
    from dataclasses import replace

    from hrrsi.report.model_sections import model_card, training_rows
    from hrrsi.report.page import write_report

    if weights:  # not for maps that were there
        maps = [
            replace(one, card=model_card(file), training=training_rows(file))
            for one, file in zip(maps, weights, strict=True)
        ]
    write_report(path, maps, comparison, in_flags)
    typer.echo(f"{path}: open it in a browser", err=True)
