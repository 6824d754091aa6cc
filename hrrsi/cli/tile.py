"""``hrrsi tile``: raw scenes and labels to a tiled dataset."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hrrsi.cli.options import Bands, Height, Nodata, Overwrite, Quiet, integers, names


class LabelFormat(StrEnum):
    """What labels hold."""

    colours = "colours"
    indices = "indices"
    polygons = "polygons"


class UnknownLabels(StrEnum):
    """What to do about labels that the scheme doesn't know."""

    error = "error"
    ignore = "ignore"


def tile(
    raw: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of scenes and labels, or the official ISPRS zips (read in place).",
            metavar="RAW",
            show_default=False,
        ),
    ],
    scheme: Annotated[
        str,
        typer.Option(
            "--scheme",
            help="dubai, potsdam, vaihingen, or your own .yaml file.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The dataset's folder.", show_default=False)
    ],
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="A split of the scheme (paper, official, standard), or a .yaml file with lists "
            "train, val, test of scene names. Default: the scheme's first.",
        ),
    ] = None,
    val_scenes: Annotated[
        str | None,
        typer.Option(
            "--val-scenes", help="Names or patterns of the validation scenes, e.g. 11,3_*."
        ),
    ] = None,
    test_scenes: Annotated[
        str | None,
        typer.Option("--test-scenes", help="The same for testing; every other scene trains."),
    ] = None,
    size: Annotated[
        int, typer.Option("--size", min=32, help="Rows and columns of a patch, in pixels.")
    ] = 512,
    stride: Annotated[
        int | None,
        typer.Option("--stride", min=1, help="Pixels from one patch to the next. Default: --size."),
    ] = None,
    label_format: Annotated[
        LabelFormat | None,
        typer.Option("--label-format", help="What labels hold. Default: the scheme's."),
    ] = None,
    label_file: Annotated[
        Path | None,
        typer.Option(
            "--label-file", help="One vector file with the polygons of all scenes, e.g. a .gpkg."
        ),
    ] = None,
    attribute: Annotated[
        str | None,
        typer.Option(
            "--attribute",
            help="Attribute of polygons that holds the class' name, code or index. "
            "Default: the scheme's.",
        ),
    ] = None,
    eroded: Annotated[
        bool,
        typer.Option(
            "--eroded",
            help="Take the labels with eroded class borders for val and test, to score without "
            "borders; train keeps the full ones.",
        ),
    ] = False,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            "--merge",
            help='Join classes, e.g. "tree+low vegetation=vegetation" (the first one\'s colour '
            "stays). Can be given several times.",
        ),
    ] = None,
    aoi: Annotated[
        Path | None,
        typer.Option(
            "--aoi", help="Vector file of polygons: pixels outside them are ignored (255)."
        ),
    ] = None,
    bands: Bands = None,
    nodata: Nodata = None,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            help="Value that counts as full brightness, e.g. 2047 for 11 bits in uint16. Default: "
            "what the scenes declare (GDAL's scale, NBITS), 255 for uint8, else estimated.",
        ),
    ] = None,
    height: Height = None,
    unknown: Annotated[
        UnknownLabels,
        typer.Option(
            "--unknown", help="Labels that the scheme doesn't know: fail, or ignore their pixels."
        ),
    ] = UnknownLabels.error,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes. Default: one a processor."),
    ] = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the split, and that scenes and labels open and fit; pixels are not read, "
            "nothing is written.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Cut raw scenes and their labels into a tiled dataset for `hrrsi train`.

    For example, from the folder with the two official ISPRS archives:

    `hrrsi tile Vaihingen/ --scheme vaihingen --split paper --out vaihingen512`

    writes `dataset.yaml` and `{train,val,test}/{image,label}/SCENE_ROW_COLUMN.png`: labels are
    class indices with the scheme's colours as palette, 255 where a pixel is ignored. In val and
    test each pixel counts once, however patches overlap. Whole scenes go to train, val or
    test, never patches. Where PNG can't hold the bands or their type, patches are GeoTIFF:

    `hrrsi tile town/ --scheme town.yaml --bands 4,1,2,3 --scale 2047 --out town512`

    Height models become one more band, laid over the scenes; `--height scheme` takes those that
    the scheme describes. Pixels without height are ignored. Networks trained on them want
    `--height` in `hrrsi predict` and `hrrsi eval` too:

    `hrrsi tile Vaihingen/ --scheme vaihingen --height scheme --out vaihingen512_dsm`
    """
    from hrrsi.hardware import available_cores
    from hrrsi.labels.labelled_scenes import labelled_scenes
    from hrrsi.labels.scheme import load_scheme
    from hrrsi.labels.splits import scene_split
    from hrrsi.tiling.plan import TilingOptions, tiling_plan
    from hrrsi.tiling.scene_overlap import overlaps_by_georeference
    from hrrsi.tiling.table import (
        content_notes,
        content_table,
        overlap_notes,
        planned_table,
        split_notes,
    )
    from hrrsi.tiling.tile import tile as tile_scenes

    if stride is not None and stride > size:
        raise typer.BadParameter(
            f"{stride} would leave gaps between patches of {size}", param_hint="--stride"
        )
    kept = integers(bands, "--bands")
    if kept and len(set(kept)) < len(kept):
        raise typer.BadParameter("name each band once", param_hint="--bands")
    options = TilingOptions(
        size=size,
        stride=stride or size,
        merges=tuple(merge or ()),
        eroded=eroded,
        bands=tuple(kept) if kept else None,
        nodata=nodata,
        scale=scale,
        height=height,
        unknown=unknown.value,
        aoi=aoi,
        workers=workers or available_cores(),
        show_progress=not quiet,
    )
    chosen = load_scheme(scheme).read_as(
        label_format.value if label_format else "polygons" if label_file else None, attribute
    )
    files = labelled_scenes(raw, chosen, label_file=label_file, heights=height)
    parts = scene_split(
        [f.name for f in files],
        chosen,
        split=split,
        val_scenes=names(val_scenes),
        test_scenes=names(test_scenes),
    )
    if dry_run:
        plan = tiling_plan(files, chosen, parts, out, options)
        notes = overlap_notes(overlaps_by_georeference(plan.footprints))
        table, done = planned_table(parts, plan.patches), "nothing written"
    else:
        made = tile_scenes(files, chosen, parts, out, options, overwrite=overwrite)
        notes = content_notes(made)
        table, done = content_table(made.description), f"wrote {out}"
    for note in (*split_notes(parts), *notes):
        typer.echo(note, err=True)
    typer.echo(f"{table}\nsplit {parts.name}; {done}")
