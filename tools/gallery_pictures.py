"""Draw the pictures of the README and of the gallery: docs/demo.png, docs/gallery.png.

The first is Dubai's tile 1, swiped into its map by the packaged weights. The second shows where
these map it best, and where worst. Nothing was trained on tile 1 or chosen by it. It is cut into
blocks of 320 px; of those that show at least three classes, each on 5 % of the labelled pixels or
more, the three with the highest and the three with the lowest mIoU are drawn beside their labels
and their map:

    python tools/gallery_pictures.py DUBAI

DUBAI holds the published tiles (`tile1/masks/image_part_00N.png`); images are those of
examples/dubai_tile1.tif.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image, ImageDraw, ImageFont
from rasterio.errors import NotGeoreferencedWarning

import hrrsi
from hrrsi.labels.scheme import load_scheme

ROOT = Path(__file__).parents[1]
FONT = ROOT / "hrrsi" / "scenes" / "fonts" / "DejaVuSans.ttf"
SIDE = 320
SHOWN = 208
GAP = 8
Labels = npt.NDArray[np.uint8]


class Block(NamedTuple):
    """A block of the scene: its mIoU, and where it begins."""

    mean_iou: float
    row: int
    column: int


def truth_of(masks: Path) -> Labels:
    """Return the labels of tile 1 as class indices, its nine parts joined row by row."""
    scheme = load_scheme("dubai")
    parts = []
    for part in range(1, 10):
        colours = np.asarray(Image.open(masks / f"image_part_{part:03}.png").convert("RGB"))
        indices = np.full(colours.shape[:2], 255, dtype=np.uint8)
        for index, colour in enumerate(scheme.colours):
            indices[(colours == colour).all(axis=-1)] = index
        parts.append(indices)
    return np.concatenate([np.concatenate(parts[i : i + 3], axis=1) for i in (0, 3, 6)])


def blocks_of(truth: Labels, labels: Labels, classes: int) -> list[Block]:
    """Return the blocks that show several classes, the best first."""
    blocks = []
    for row in range(0, truth.shape[0] - SIDE + 1, SIDE):
        for column in range(0, truth.shape[1] - SIDE + 1, SIDE):
            place = np.s_[row : row + SIDE, column : column + SIDE]
            labelled = truth[place] != 255
            true, predicted = truth[place][labelled], labels[place][labelled]
            present = [c for c in range(classes) if (true == c).mean() >= 0.05]
            if labelled.mean() < 0.95 or len(present) < 3:
                continue
            ious = [
                ((true == c) & (predicted == c)).sum() / ((true == c) | (predicted == c)).sum()
                for c in present
            ]
            blocks.append(Block(float(np.mean(ious)), row, column))
    return sorted(blocks, reverse=True)


def picture(image: Labels, truth: Labels, labels: Labels, blocks: list[Block]) -> Image.Image:
    """Return a sheet: a column a block, with its image, its labels and its map below each other."""
    palette = hrrsi.Segmenter().palette
    font = ImageFont.truetype(FONT, 13)
    step = SHOWN + GAP
    sheet = Image.new("RGB", (90 + len(blocks) * step, 3 * step + 22), "white")
    draw = ImageDraw.Draw(sheet)
    rows = {"scene": image, "labels": palette[truth], "map": palette[labels]}
    for line, (name, pixels) in enumerate(rows.items()):
        draw.text((4, 22 + line * step + SHOWN // 2), name, "black", font)
        for number, block in enumerate(blocks):
            place = np.s_[block.row : block.row + SIDE, block.column : block.column + SIDE]
            tile = Image.fromarray(pixels[place])
            kept = Image.Resampling.LANCZOS if name == "scene" else Image.Resampling.NEAREST
            sheet.paste(tile.resize((SHOWN, SHOWN), kept), (90 + number * step, 22 + line * step))
    for number, block in enumerate(blocks):
        draw.text((90 + number * step, 3), f"mIoU {100 * block.mean_iou:.0f}", "black", font)
    return sheet


def swiped(image: Labels, labels: Labels, segmenter: hrrsi.Segmenter) -> Image.Image:
    """Return the scene on the left of a handle, its map on the right, and the legend below."""
    width, height = 1200, 640
    top = image.shape[0] - round(image.shape[1] * height / width)  # the lower part, with the town
    scene, mapped = (
        Image.fromarray(pixels[top:]).resize((width, height), Image.Resampling.LANCZOS)
        for pixels in (image, segmenter.palette[labels])
    )
    middle = width // 2
    sheet = Image.new("RGB", (width, height + 44), "white")
    sheet.paste(scene, (0, 0))
    sheet.paste(mapped.crop((middle, 0, width, height)), (middle, 0))
    draw = ImageDraw.Draw(sheet)
    draw.line([(middle, 0), (middle, height)], "white", 4)
    draw.ellipse([middle - 22, height // 2 - 22, middle + 22, height // 2 + 22], "white", "gray")
    font = ImageFont.truetype(FONT, 18)
    draw.text((middle, height // 2), "◂ ▸", "black", font, anchor="mm")
    left = 12
    for name, colour in zip(segmenter.classes, segmenter.meta.colours, strict=True):
        draw.rectangle([left, height + 12, left + 22, height + 32], tuple(colour))
        draw.text((left + 30, height + 22), name, "black", font, anchor="lm")
        left += 60 + round(draw.textlength(name, font))
    return sheet


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dubai", type=Path, help="folder of the published tiles")
    dubai = parser.parse_args().dubai
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with rasterio.open(ROOT / "examples" / "dubai_tile1.tif") as scene:
        image = np.moveaxis(scene.read(), 0, -1)
    truth = truth_of(dubai / "tile1" / "masks")
    segmenter = hrrsi.Segmenter()
    labels = segmenter(image)
    demo = swiped(image, labels, segmenter)
    demo.quantize(220).save(ROOT / "docs" / "demo.png", optimize=True)
    blocks = blocks_of(truth, labels, len(segmenter.classes))
    sheet = picture(image, truth, labels, [*blocks[:3], *blocks[-3:]])
    sheet.quantize(96).save(ROOT / "docs" / "gallery.png", optimize=True)
    print(len(blocks), [round(100 * block.mean_iou) for block in blocks])


if __name__ == "__main__":
    main()
