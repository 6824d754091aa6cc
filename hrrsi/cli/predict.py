"""``hrrsi predict``: maps of scenes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hrrsi.cli.messages import (
    error_line,
    in_flags,
    print_line,
    print_weights,
    scene_warnings_in_one_line,
)
from hrrsi.cli.options import (
    ENGINE_FLAGS,
    NETWORK_PANEL,
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
from hrrsi.errors import one_line
from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from hrrsi.cluster.scene_dealer import PlannedRun
    from hrrsi.prediction.mapped_scene import MappedScene, PlannedScene
    from hrrsi.prediction.predict import ScenesFailedError

_READING = "How scenes are read"
_MORE = "More outputs"
_RUN = "Running"

_MAP_FLAGS: Flags = {
    "bands": READING_FLAGS["bands"],
    "nodata": READING_FLAGS["nodata"],
    "crs": READING_FLAGS["crs"],
    "scale": Flag(
        typer.Option(
            "--scale",
            help="Value that counts as full brightness. Default: what the raster declares (GDAL's "
            "scale, NBITS), else the weights' own; estimated for rasters of another type. What is "
            "not the weights' own is said.",
            rich_help_panel=_READING,
        )
    ),
    "height": READING_FLAGS["height"],
    "aoi": Flag(
        typer.Option(
            "--aoi",
            help="Polygons: what lies outside them gets no class, and takes no time.",
            rich_help_panel=_READING,
        ),
        Path | None,
    ),
    "mosaic": Flag(
        typer.Option(
            "--mosaic",
            help="Map the rasters as tiles of one scene, with what lies beyond their borders: one "
            "map, or with --tiles one a tile.",
            rich_help_panel=_READING,
        )
    ),
    "crop": Flag(
        typer.Option(
            "--crop",
            help="Let maps be as large as the --aoi, not as their scenes: of a part of a huge "
            "mosaic, or of a map service (XYZ, WMS).",
            rich_help_panel=_READING,
        )
    ),
    "resample": READING_FLAGS["resample"],
    **WINDOW_FLAGS,
    "augmentation": Flag(
        typer.Option(
            "--tta",
            help="Test-time augmentation: flip (twice the time) or d4 (eight times).",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
    "min_area": Flag(
        typer.Option(
            "--min-area",
            help="Merge areas below so many m² (pixels without CRS) into their neighbours.",
            rich_help_panel=_MORE,
        )
    ),
}
_OUTPUT_FLAGS: Flags = {
    "overwrite": OVERWRITE_FLAG,
    "confidence": Flag(
        typer.Option(
            "--confidence",
            help="Also write SCENE_confidence.tif: the probability of each pixel's class, before "
            "--min-area merges any.",
            rich_help_panel=_MORE,
        )
    ),
    "probabilities": Flag(
        typer.Option(
            "--probabilities",
            help="Also write SCENE_probabilities.tif: a band for each class.",
            rich_help_panel=_MORE,
        )
    ),
    "vector": Flag(
        typer.Option(
            "--vector",
            help="Also write polygons: a .gpkg, .geojson, .fgb or .shp for one scene; or gpkg, "
            "geojson, fgb or shp for one beside each map.",
            rich_help_panel=_MORE,
        ),
        str | None,
    ),
    "vector_classes": Flag(
        typer.Option(
            "--classes",
            help="Write polygons of these classes alone, e.g. Building,Road.",
            rich_help_panel=_MORE,
        ),
        str | None,
        names,
    ),
    "simplify": Flag(
        typer.Option(
            "--simplify",
            metavar="METRES",
            help="Leave out the steps that polygons have along pixels, up to this size (pixels "
            "without CRS); neighbours keep one border. Try one or two pixels.",
            rich_help_panel=_MORE,
        )
    ),
    "zones": Flag(
        typer.Option(
            "--zones",
            help="Polygons: also write SCENE_zones.csv, the area of each class in each of them, "
            "and SCENE_zones.gpkg, the polygons with these areas, coloured by the largest.",
            rich_help_panel=_MORE,
        ),
        Path | None,
    ),
    "zone_name": Flag(
        typer.Option("--zone-name", help="The attribute that names zones.", rich_help_panel=_MORE)
    ),
    "preview": Flag(
        typer.Option(
            "--preview",
            help="Also write a sheet of scene, map, legend, scale bar, north arrow, CRS, date and "
            "weights: a .png or .pdf for one scene; or png or pdf for one beside each map.",
            rich_help_panel=_MORE,
        ),
        str | None,
    ),
    "tiles": Flag(
        typer.Option(
            "--tiles",
            help="Write a map for each tile of the --mosaic, which fit together without seams.",
            rich_help_panel=_MORE,
        )
    ),
    "resume": Flag(
        typer.Option(
            "--resume",
            help="Go on where the same command was stopped; finished scenes stay as they are.",
            rich_help_panel=_RUN,
        )
    ),
}


_DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only print sizes, windows, the estimated time and the outputs.",
        rich_help_panel=_RUN,
    ),
]


@takes_option_classes
def predict(
    scenes: Annotated[
        list[str],
        typer.Argument(
            help="Rasters, folders of rasters, or quoted patterns such as 'scenes/*.tif'; also "
            "what GDAL opens: /vsizip/..., https://..., s3://...",
        ),
    ],
    *,
    weights: Weights = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="A .tif file for one scene, or a folder. Default: SCENE_classes.tif in the "
            "current folder.",
        ),
    ] = None,
    quiet: Quiet = False,
    options: Annotated[MapOptions, _MAP_FLAGS],
    outputs: Annotated[OutputOptions, _OUTPUT_FLAGS],
    engine: Annotated[EngineOptions, ENGINE_FLAGS],
    layer: Layer = None,
    dry_run: _DryRun = False,
    cluster: Cluster = None,
) -> None:
    """Map the land cover of scenes.

    Writes a class raster for each scene: a cloud-optimised GeoTIFF on the scene's grid that opens
    in QGIS with class colours and names. Scenes are read window by window, so they may be larger
    than memory. Pixels without data (nodata tag, alpha, mask, NaN, --nodata) have none in the map
    either.

    - `hrrsi predict scene.tif`

    - `hrrsi predict 'flights/*.tif' --out maps/ --nodata 0 --vector gpkg`

    - `hrrsi predict tiles/ --mosaic --out city.tif`

    - `hrrsi predict scene.tif --weights mine.safetensors --preview scene.png`

    - `hrrsi predict 'top/*.tif' --weights with_heights.safetensors --height 'dsm/dsm_{}.tif'`

    - `hrrsi predict https://example.com/scene.tif --aoi parcels.gpkg --zones parcels.gpkg`

    Scenes of the same name from different folders get their folder's name before it. If one of
    several scenes fails, the others are still mapped, and the exit code is 1. A run that was
    stopped goes on with `--resume`. On a cluster, with `--cluster`, all machines have to see scenes
    and outputs under the same paths, or at addresses such as s3://bucket/maps.
    """
    from hrrsi.prediction.predict import ScenesFailedError

    areas, zones = with_layers(
        [layer] if layer else [], file_list(options.aoi), file_list(outputs.zones)
    )
    options = replace(options, aoi=next(iter(areas), None))
    outputs = replace(outputs, zones=next(iter(zones), None))
    arguments = (scenes, weights, out, options, engine, outputs)
    say_weights = None if quiet else partial(print_weights, weights)
    with scene_warnings_in_one_line():
        if dry_run:
            _plan(arguments, cluster, say_weights)
            return
        try:
            _map(arguments, cluster, say_weights)
        except ScenesFailedError as failed:
            _print_failures(failed)
            raise


def _plan(
    arguments: tuple[Any, ...], cluster: str | None, say_weights: Callable[..., None] | None
) -> None:
    """Print what mapping would take, here or on a cluster."""
    from hrrsi.prediction.predict import MapTask, planned_scenes

    task = MapTask(*arguments)
    if cluster is None:
        plans = planned_scenes(task)
    else:
        from hrrsi.cluster.client import planned_by_workers

        planned = planned_by_workers(task, cluster)
    if say_weights:
        say_weights()
    if cluster is None:
        _print_plan(plans)
    else:
        _print_cluster_plan(planned)


def _map(
    arguments: tuple[Any, ...], cluster: str | None, say_weights: Callable[..., None] | None
) -> None:
    """Map scenes, here or on a cluster, and print what each has."""
    from hrrsi.prediction.predict import MapObserver
    from hrrsi.verbs import predict as map_scenes

    observer = MapObserver(mapped=_print_mapped, failed=_print_failure)
    if say_weights:
        observer = replace(observer, ready=say_weights)
    is_quiet = say_weights is None
    map_scenes(*arguments, cluster=cluster, observer=observer, show_progress=not is_quiet)


def _print_failures(failed: ScenesFailedError) -> None:
    print_line(f"mapped {len(failed.mapped)} scenes; failed:", err=True)
    for scene, error in failed.failures.items():
        line = error_line(error)
        name = one_line(scene)
        print_line(f"  {line if name in line else f'{name}: {line}'}", err=True)


def _print_failure(scene: str, error: Exception) -> None:
    print_line(f"error: {error_line(error)}", err=True)


def _print_mapped(mapped: MappedScene) -> None:
    from hrrsi.quantities import TextTable, area_text

    total = mapped.width * mapped.height
    speed = (
        "was finished already"
        if mapped.earlier
        else f"{mapped.seconds:.1f} s, {total / 1e6 / mapped.seconds:.1f} Mpx/s"
    )
    size = f"{mapped.width} x {mapped.height} px"
    print_line(f"{one_line(f'{mapped.scene} → {mapped.path}')}  ({size}, {speed})")
    if mapped.height_model is not None:
        print_line(f"heights: {mapped.height_model}")
    columns = ["class", "pixels", "share"]
    rows = [
        [name, f"{pixels:,}", f"{share:.2%}"]
        for name, pixels, share in zip(
            mapped.classes, mapped.class_pixels, mapped.shares, strict=True
        )
    ]
    with_data = total - mapped.nodata_pixels
    rows.append(["all with data", f"{with_data:,}", "100.00%" if with_data else "-"])
    if mapped.nodata_pixels:
        rows.append(["no data", f"{mapped.nodata_pixels:,}", "-"])
    if mapped.areas is not None:
        columns.append("area")
        figures = [*map(area_text, mapped.areas), area_text(sum(mapped.areas)), ""]
        rows = [[*row, area] for row, area in zip(rows, figures, strict=False)]
    table = TextTable(columns)
    for number, row in enumerate(rows):
        if number == len(mapped.classes):
            table.add_divider()
        table.add_row(row)
    print_line(str(table))
    if mapped.zones is not None:
        print_line(mapped.zones.text())
    for path in mapped.outputs.files[1:]:
        print_line(f"also: {path}")


def _print_cluster_plan(plan: PlannedRun) -> None:
    from hrrsi.quantities import byte_text, counted, time_text

    for name, problem in plan.problems.items():
        line = error_line(problem)
        print_line(f"error: {line if name in line else f'{name}: {line}'}", err=True)
    for name, (tasks, (height, width)) in plan.scenes.items():
        print_line(f"{name}: {width} x {height} px, {counted(tasks, 'task')}")
    print_line(
        f"{counted(plan.tasks, 'task')} on {counted(plan.workers, 'worker')} with "
        f"{counted(plan.threads, 'thread')}, about {time_text(plan.seconds)}, "
        f"{plan.core_hours:.2g} core hours; {byte_text(plan.read_bytes)} of pixels read, "
        f"{byte_text(plan.written_bytes)} of labels and scores written"
    )
    if plan.problems:
        raise typer.Exit(1)


def _print_plan(plans: list[PlannedScene]) -> None:
    from hrrsi.quantities import byte_text, time_text

    possible = [plan for plan in plans if plan.problem is None]
    for plan in plans:
        if plan.problem is not None:
            print_line(f"error: {in_flags(plan.problem)}", err=True)
            continue
        print_line(
            f"{plan.scene}: {plan.width} x {plan.height} px, {plan.windows:,} windows, about "
            f"{time_text(plan.seconds)}, {byte_text(plan.disk_bytes)} on the disk meanwhile"
        )
        for path in plan.outputs.files:
            print_line(f"  → {path}{' (exists)' if path.exists() else ''}")
        if plan.kept_rows:
            share = plan.kept_rows / plan.height
            print_line(f"  an unfinished map is there ({share:.0%}): --resume goes on with it")
    if len(possible) > 1:
        seconds = sum(plan.seconds for plan in possible)
        print_line(f"{len(possible)} scenes, about {time_text(seconds)} in all")
    if len(possible) < len(plans):
        raise typer.Exit(1)
