"""Do tiles show in a map? Label changes where they meet, mapped one by one and with `--mosaic`.

Cuts scenes into tiles, maps these both ways with `hrrsi predict`, and prints how often labels
change across the tiles' borders and across other lines, and the share of labels that differ between
the two maps by the distance from a border. The picture shows the border with the most changes:
scene, tiles one by one, mosaic.

    python benchmarks/tile_seams.py examples/dubai_tile1.tif --tiles 3 --picture border.png
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image
from rasterio import Affine
from rasterio.windows import Window

from hrrsi.quantities import TextTable

DISTANCES = (0, 16, 64, 128)
CROP = 110  # pixels around the middle of a border that are shown

Labels = npt.NDArray[np.uint8]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--tiles", type=int, default=2, help="tiles along each axis")
    parser.add_argument("--options", default="", help="more for hrrsi predict, in one string")
    parser.add_argument("--picture", type=Path, help="shows a border of the first scene")
    return parser.parse_args()


def cut(scene: Path, folder: Path, number: int) -> tuple[list[Window], list[Window]]:
    """Write a scene's tiles, and return the first row of them and the first column."""
    folder.mkdir()
    with rasterio.open(scene) as whole:
        height, width = whole.height // number, whole.width // number
        windows = [
            [Window(width * j, height * i, width, height) for j in range(number)]
            for i in range(number)
        ]
        # scenes without a place get one
        place = Affine.scale(1, -1) if whole.transform.is_identity else whole.transform
        for i, row in enumerate(windows):
            for j, window in enumerate(row):
                profile = {
                    "driver": "GTiff",
                    "count": whole.count,
                    "dtype": whole.dtypes[0],
                    "crs": whole.crs,
                    "nodata": whole.nodata,
                    "transform": place @ Affine.translation(window.col_off, window.row_off),
                }
                file = folder / f"tile_{i:02d}_{j:02d}.tif"
                with rasterio.open(file, "w", width=width, height=height, **profile) as tile:
                    tile.write(whole.read(window=window))
                    tile.colorinterp = whole.colorinterp
    return windows[0], [row[0] for row in windows]


def mapped(tiles: Path, out: Path, options: Sequence[str]) -> tuple[Labels, Labels]:
    """Map tiles, each to a file, and return the labels side by side, and the map's palette."""
    command = [sys.executable, "-m", "hrrsi", "predict", str(tiles), "--out", f"{out}/", "--quiet"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    rows: dict[str, list[Labels]] = {}
    for file in sorted(out.glob("*_classes.tif")):
        with rasterio.open(file) as dataset:
            rows.setdefault(file.name.split("_")[1], []).append(dataset.read(1))
            colours = dataset.colormap(1)
    palette = np.array([colours[index][:3] for index in range(256)], dtype=np.uint8)
    return np.concatenate([np.concatenate(row, axis=1) for row in rows.values()]), palette


def changes(labels: Labels, rows: Sequence[int], columns: Sequence[int]) -> tuple[float, float]:
    """Return the share of neighbours whose labels differ across borders, and anywhere."""
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    borders = np.concatenate(
        [down[[n - 1 for n in rows]].ravel(), across[:, [n - 1 for n in columns]].ravel()]
    )
    return float(borders.mean()), float(np.concatenate([down.ravel(), across.ravel()]).mean())


def border_distance(shape: tuple[int, int], rows: Sequence[int], columns: Sequence[int]) -> Labels:
    """Return how many pixels lie between each pixel and the nearest border."""
    along = []
    for length, borders in zip(shape, (rows, columns), strict=True):
        places = np.arange(length)
        along.append(
            np.min([np.where(places >= n, places - n, n - 1 - places) for n in borders], 0)
        )
    return np.minimum(along[0][:, None], along[1][None])


def save_picture(
    path: Path, scene: Path, maps: Sequence[Labels], columns: Sequence[int], palette: Labels
) -> None:
    one_by_one = maps[0]
    differs = one_by_one[:, [n - 1 for n in columns]] != one_by_one[:, list(columns)]
    sums = np.apply_along_axis(np.convolve, 0, differs.astype(int), np.ones(2 * CROP), "valid")
    first, border = np.unravel_index(int(sums.argmax()), sums.shape)
    part = slice(int(first), int(first) + 2 * CROP)
    side = slice(columns[int(border)] - CROP, columns[int(border)] + CROP)
    with rasterio.open(scene) as whole:
        imagery = np.moveaxis(whole.read([1, 2, 3]), 0, -1)[part, side]
    panels = [imagery, *(palette[labels[part, side]] for labels in maps)]
    Image.fromarray(np.concatenate(panels, axis=1)).resize((1320, 440), 0).save(path)


def main() -> None:
    options = arguments()
    table = TextTable(["scene", "tiles", "borders", "anywhere"], left=(0, 1))
    spans = [*pairwise(DISTANCES), (DISTANCES[-1], 10**9)]
    names = [f"{low} to {high - 1} px" for low, high in spans[:-1]] + [f"from {DISTANCES[-1]} px"]
    far = TextTable(["scene", *names])
    for number, scene in enumerate(options.scenes):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            across, down = cut(scene, folder / "tiles", options.tiles)
            columns = [int(window.col_off) for window in across[1:]]
            rows = [int(window.row_off) for window in down[1:]]
            more = options.options.split()
            alone, palette = mapped(folder / "tiles", folder / "alone", more)
            joined, _ = mapped(folder / "tiles", folder / "joined", [*more, "--mosaic", "--tiles"])
        for name, labels in (("one by one", alone), ("--mosaic", joined)):
            shares = changes(labels, rows, columns)
            table.add_row([scene.name, name, *(f"{share:.2%}" for share in shares)])
        differ, distance = alone != joined, border_distance(alone.shape, rows, columns)
        shares = [differ[(distance >= low) & (distance < high)].mean() for low, high in spans]
        far.add_row([scene.name, *(f"{share:.2%}" for share in shares)])
        if options.picture and not number:
            save_picture(options.picture, scene, [alone, joined], columns, palette)
    print("neighbouring pixels whose labels differ", table, sep="\n")
    print("labels that differ between the two maps, by distance from a border", far, sep="\n")


if __name__ == "__main__":
    main()
