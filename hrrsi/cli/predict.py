"""``hrrsi predict``: maps of scenes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hrrsi.cli.options import (
    Bands,
    BatchSize,
    Device,
    Nodata,
    Overlap,
    Overwrite,
    Quiet,
    Scale,
    Weights,
    WindowSize,
    integers,
)

if TYPE_CHECKING:
    from hrrsi.prediction.mapped_scene import MappedScene


def predict(
    scenes: Annotated[
        list[str],
        typer.Argument(
            help="Rasters, folders of rasters, or quoted patterns such as 'scenes/*.tif'."
        ),
    ],
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
    window: WindowSize = 512,
    overlap: Overlap = 64,
    batch: BatchSize = 4,
    device: Device = "auto",
    bands: Bands = None,
    nodata: Nodata = None,
    scale: Scale = None,
    preview: Annotated[
        Path | None,
        typer.Option("--preview", help="Also write a PNG: scene, map and legend side by side."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Map the land cover of scenes.

    Writes a class raster for each scene: a GeoTIFF on the scene's grid that opens in QGIS with
    class colours and names. Scenes are read window by window, so they may be larger than memory.
    Pixels without data (nodata tag, alpha, mask, NaN, --nodata) have none in the map either.

    - `hrrsi predict scene.tif`

    - `hrrsi predict 'flights/*.tif' --out maps/ --nodata 0`

    - `hrrsi predict scene.tif --weights mine.safetensors --preview scene.png`

    Scenes of the same name from different folders get their folder's name before it. If one of
    several scenes fails, the others are still mapped, and the exit code is 1.
    """
    band_list = integers(bands, "--bands")
    from hrrsi.prediction.predict import predict as map_scenes

    with _resolution_warnings_in_one_line():
        map_scenes(
            list(scenes),
            weights=weights,
            out=out,
            window=window,
            overlap=overlap,
            batch=batch,
            device=device,
            bands=band_list,
            nodata=nodata,
            scale=scale,
            overwrite=overwrite,
            preview=preview,
            show_progress=not quiet,
            on_mapped=_print_table,
            on_failed=lambda _, error: typer.echo(f"error: {error}", err=True),
        )
    if preview is not None:
        typer.echo(f"picture: {preview}")


def _print_table(mapped: MappedScene) -> None:
    from prettytable import PrettyTable

    from hrrsi.quantities import area_text

    total = mapped.width * mapped.height
    typer.echo(
        f"{mapped.scene} → {mapped.path}  ({mapped.width} x {mapped.height} px, "
        f"{mapped.seconds:.1f} s, {total / 1e6 / mapped.seconds:.1f} Mpx/s)"
    )
    columns = ["class", "pixels", "share"]
    areas = mapped.areas
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
    if areas is not None and mapped.pixel_area is not None:
        columns.append("area")
        figures = [*areas, with_data * mapped.pixel_area, mapped.nodata_pixels * mapped.pixel_area]
        rows = [[*row, area_text(area)] for row, area in zip(rows, figures, strict=False)]
    table = PrettyTable(columns, align="r")
    table.align["class"] = "l"
    table.add_rows(rows[: len(mapped.classes)])
    table.add_divider()
    table.add_rows(rows[len(mapped.classes) :])
    typer.echo(table.get_string())


@contextmanager
def _resolution_warnings_in_one_line() -> Iterator[None]:
    from hrrsi.prediction.predict import ResolutionWarning

    with warnings.catch_warnings(action="always", category=ResolutionWarning):
        show = warnings.showwarning

        def show_in_one_line(
            message: Warning | str, category: type[Warning], *place: Any, **more: Any
        ) -> None:
            if issubclass(category, ResolutionWarning):
                typer.echo(f"warning: {message}", err=True)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = show_in_one_line  # restored by catch_warnings
        yield
