"""Draw where weights map buildings best and worst: hrrsi/pretrained/weights_maps.png.

Outlines of buildings beside the map of the scene, for the scenes of a place with the highest and
with the lowest IoU of buildings. The imagery itself is not shown:

    python tools/train_packaged_weights.py IMAGERY ... --out WORK --hold-out claremont,nepal
    python tools/outline_pictures.py WORK/scenes/buildings nepal \
        WORK/runs/without-claremont-nepal/default.safetensors
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image, ImageDraw, ImageFont

import hrrsi

ROOT = Path(__file__).parents[1]
FONT = ROOT / "hrrsi" / "scenes" / "fonts" / "DejaVuSans.ttf"
BUILDING = 0
SHRINKING = 4  # of the pictures
GAP, TITLE = 24, 20
OTHER, NO_DATA = (200, 200, 200), (245, 245, 245)
Labels = npt.NDArray[np.uint8]


class MappedPlace(NamedTuple):
    """The labels of a scene, its map, and the IoU of buildings."""

    truth: Labels
    labels: Labels
    iou: float


def mapped_places(scenes: Path, place: str, weights: Path) -> list[MappedPlace]:
    """Return the scenes of a place, the one with the best map first."""
    places = []
    with tempfile.TemporaryDirectory() as folder:
        for image in sorted((scenes / "images").glob(f"{place}*.tif")):
            mapped = hrrsi.predict(image, weights, Path(folder) / image.name, show_progress=False)
            with rasterio.open(mapped[0].outputs.classes) as raster:
                labels = raster.read(1)
            with rasterio.open(scenes / "labels" / image.name) as raster:
                truth = raster.read(1)
            counted = (truth != 255) & (labels != 255)
            true, predicted = (truth == BUILDING) & counted, (labels == BUILDING) & counted
            iou = float((true & predicted).sum() / (true | predicted).sum())
            places.append(MappedPlace(truth, labels, iou))
    return sorted(places, key=lambda place: place.iou, reverse=True)


def picture(place: MappedPlace, rank: str, palette: Labels) -> Image.Image:
    """Return outlines and map of a scene beside each other, each under its title."""
    outlines = np.where((place.truth == BUILDING)[..., None], palette[BUILDING], OTHER)
    outlines[place.truth == 255] = NO_DATA
    colours = palette[place.labels]
    colours[(place.labels == 255) | (place.truth == 255)] = NO_DATA
    height, width = (length // SHRINKING for length in place.truth.shape)
    sheet = Image.new("RGB", (2 * width + GAP, height + TITLE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(FONT, 12)
    titles = (f"outlines of buildings, {rank}", f"map: IoU of buildings {100 * place.iou:.0f} %")
    for column, (title, pixels) in enumerate(zip(titles, (outlines, colours), strict=True)):
        left = column * (width + GAP)
        draw.text((left, 2), title, "black", font)
        tile = Image.fromarray(pixels.astype(np.uint8))
        sheet.paste(tile.resize((width, height), Image.Resampling.NEAREST), (left, TITLE))
    return sheet


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", type=Path, help="WORK/scenes/buildings")
    parser.add_argument("place", help="that the weights have not seen, e.g. nepal")
    parser.add_argument("weights", type=Path)
    arguments = parser.parse_args()
    palette = hrrsi.Segmenter(arguments.weights).palette
    places = mapped_places(arguments.scenes, arguments.place, arguments.weights)
    ranks = {f"the best of {len(places)} scenes": places[0], "the worst": places[-1]}
    tiles = [picture(place, rank, palette) for rank, place in ranks.items()]
    sheet = Image.new(
        "RGB", (max(t.width for t in tiles), sum(t.height + GAP for t in tiles) - GAP), "white"
    )
    top = 0
    for tile in tiles:
        sheet.paste(tile, ((sheet.width - tile.width) // 2, top))
        top += tile.height + GAP
    path = ROOT / "hrrsi" / "pretrained" / "weights_maps.png"
    sheet.quantize(16).save(path, optimize=True)
    print(path, [round(100 * place.iou, 1) for place in places])


if __name__ == "__main__":
    main()
