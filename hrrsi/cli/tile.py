"""``hrrsi tile``: raw scenes and labels to a tiled dataset."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrrsi.cli.messages import (
    note_printer,
    print_line,
    print_note,
    scene_warnings_in_one_line,
)
from hrrsi.cli.options import (
    LAYER_HELP,
    READING_FLAGS,
    Flag,
    Flags,
    Overwrite,
    Quiet,
    file_list,
    names,
    takes_option_classes,
    with_layers,
)
from hrrsi.tiling.options import TileOptions

if TYPE_CHECKING:
    from hrrsi.tiling.plan import TilingPlan
    from hrrsi.tiling.result import TilingResult


def _shares(text: str) -> list[float]:
    """Return the shares of ``--split-blocks``.

    Raises:
        typer.BadParameter: The text is no list of numbers.
    """
    try:
        return [float(part.strip().removesuffix("%")) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list such as 70,15,15", param_hint="--split-blocks"
        ) from None


_FLAGS: Flags = {
    "split": Flag(
        typer.Option(
            "--split",
            help="A split of the scheme (paper, official, standard), or a .yaml file with lists "
            "train, val, test of scene names. Default: the scheme's first.",
        )
    ),
    "val_scenes": Flag(
        typer.Option(
            "--val-scenes", help="Names or patterns of the validation scenes, e.g. 11,3_*."
        ),
        kind=str | None,
        value=names,
    ),
    "test_scenes": Flag(
        typer.Option("--test-scenes", help="The same for testing; every other scene trains."),
        kind=str | None,
        value=names,
    ),
    "size": Flag(typer.Option("--size", help="Rows and columns of a patch, in pixels.")),
    "stride": Flag(
        typer.Option("--stride", help="Pixels from one patch to the next. Default: --size."),
        is_usage=True,
    ),
    "resolution": Flag(
        typer.Option(
            "--resolution",
            metavar="METRES",
            help="Bring all scenes to this ground resolution, e.g. 0.1: means by area on a coarser "
            "grid than their own, interpolated on a finer one. Default: their own.",
        )
    ),
    "split_blocks": Flag(
        typer.Option(
            "--split-blocks",
            metavar="TRAIN,VAL,TEST",
            help="Split scenes into spatial blocks of these shares, e.g. 70,15,15, with a guard "
            "band between them and classes balanced; split.gpkg and split.png show them.",
        ),
        kind=str | None,
        value=_shares,
    ),
    "block_size": Flag(
        typer.Option(
            "--block-size",
            help="Rows and columns of a block, in pixels, of which whole patches count. Default: "
            "so many that there are about 64 blocks.",
        )
    ),
    "guard": Flag(
        typer.Option(
            "--guard",
            help="Pixels at least between patches of different blocks. Default: 3/16 of --size.",
        )
    ),
    "seed": Flag(typer.Option("--seed", help="Another one deals out blocks otherwise.")),
    "label_format": Flag(
        typer.Option("--label-format", help="What labels hold. Default: the scheme's.")
    ),
    "labels": Flag(
        typer.Option(
            "--labels",
            help="A file with the labels of all scenes: polygons (.gpkg or another vector file, "
            "or one layer of it as 'areas.gpkg|layername=parcels'), or a raster. Can be given "
            "several times: where several have a class, that of the last counts. Without --scheme "
            "their classes make one, by name.",
        ),
        kind=list[str] | None,
    ),
    "attribute": Flag(
        typer.Option(
            "--attribute",
            help="Attribute of polygons that holds the class' name, code or index. "
            "Default: the scheme's.",
        )
    ),
    "background": Flag(
        typer.Option(
            "--background",
            help="Class of what lies outside of all polygons: one of the scheme, or a new name. "
            "Default: the scheme's `outside`, else it is ignored.",
        )
    ),
    "eroded": Flag(
        typer.Option(
            "--eroded",
            help="Take the labels with eroded class borders for val and test, to score without "
            "borders; train keeps the full ones.",
        )
    ),
    "merges": Flag(
        typer.Option(
            "--merge",
            help='Join classes, e.g. "tree+low vegetation=vegetation" (the first one\'s colour '
            "stays). Can be given several times.",
        ),
        kind=list[str] | None,
    ),
    "aoi": Flag(
        typer.Option(
            "--aoi", help="Vector file of polygons: pixels outside them are ignored (255)."
        ),
        kind=Path | None,
    ),
    "bands": replace(READING_FLAGS["bands"], is_usage=True),
    "nodata": READING_FLAGS["nodata"],
    "crs": READING_FLAGS["crs"],
    "scale": Flag(
        typer.Option(
            "--scale",
            help="Value that counts as full brightness, e.g. 2047 for 11 bits in uint16. Default: "
            "what the scenes declare (GDAL's scale, NBITS), 255 for uint8, else estimated.",
        )
    ),
    "height": READING_FLAGS["height"],
    "unknown": Flag(
        typer.Option(
            "--unknown", help="Labels that the scheme doesn't know: fail, or ignore their pixels."
        )
    ),
    "unlabelled": Flag(
        typer.Option(
            "--unlabelled",
            help="Keep training scenes and patches without labels, for `hrrsi train --teacher`. "
            "Where no scene has a label, all of them train.",
        )
    ),
    "workers": Flag(typer.Option("--workers", help="Processes. Default: one a processor.")),
}


_Scheme = Annotated[
    str | None,
    typer.Option(
        "--scheme",
        help="dubai, potsdam, vaihingen, or your own .yaml file. Default: one made of --labels, "
        "and written to the dataset as scheme.yaml.",
        show_default=False,
    ),
]


_Layers = Annotated[
    list[str] | None,
    typer.Option("--layer", help=f"{LAYER_HELP} Of --labels, several can be given."),
]


@takes_option_classes
def tile(
    raw: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of scenes and labels, the official ISPRS zips (read in place), or "
            "rasters with --labels.",
            metavar="RAW",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The dataset's folder.", show_default=False)
    ],
    options: Annotated[TileOptions, _FLAGS],
    scheme: _Scheme = None,
    layers: _Layers = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the split, and that scenes and labels open and fit; pixels are not read "
            "(of labels they are, to make a scheme or to split blocks), nothing is written.",
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

    One orthophoto with one file of labels needs no scheme, and is split into spatial blocks:

    `hrrsi tile ortho.tif --labels areas.gpkg --attribute class --split-blocks 70,15,15 --out data`

    Scenes without labels can be learned from, too, by what other networks say of them:

    `hrrsi tile more_scenes/ --scheme town.yaml --unlabelled --out more512`
    """
    from hrrsi.tiling.plan import tiling_plan
    from hrrsi.tiling.tile import tile as tile_scenes

    options = _with_layers(options, layers or [])
    notes: list[str] = []

    result: TilingPlan | TilingResult
    with scene_warnings_in_one_line():
        if dry_run:
            result, outcome = tiling_plan(raw, scheme, options), "nothing written"
        else:
            result = tile_scenes(
                raw,
                scheme,
                out,
                options=options,
                overwrite=overwrite,
                show_progress=not quiet,
                on_note=note_printer(notes),
            )
            outcome = f"wrote {out}"
    for note in result.notes:
        if note not in notes:
            print_note(note)
    print_line(f"{result.table}\nsplit {result.split.name}; {outcome}")


def _with_layers(options: TileOptions, layers: list[str]) -> TileOptions:
    """Return options whose vector files name their layers.

    Raises:
        typer.BadParameter: The area of interest would have several.
    """
    labels, area = with_layers(layers, options.label_files, file_list(options.aoi))
    if len(area) > 1:
        raise typer.BadParameter(
            f"gives {options.aoi} several layers; choose one as '{options.aoi}|layername=NAME'",
            param_hint="--layer",
        )
    return replace(options, labels=labels, aoi=next(iter(area), None))
