"""Cut the example imagery of this folder out of the published Dubai tiles.

Usage: python examples/make_examples.py FOLDER [OUT]

FOLDER holds ``tileN/images/image_part_00M.jpg`` and ``tileN/masks/image_part_00M.png``; OUT is this
script's folder by default. The same FOLDER gives byte-identical files.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

ROWS, COLUMNS = 256, 320
# (tile, part, first row, first column): windows that show as many classes as their tile allows.
CROPS = [
    (1, 7, 176, 224),
    (1, 8, 128, 0),
    (4, 2, 112, 624),
    (4, 3, 368, 32),
    (5, 4, 704, 656),
    (5, 8, 288, 32),
    (6, 1, 576, 256),
    (6, 4, 560, 0),
    (7, 3, 288, 720),
    (7, 5, 1792, 224),
]


def write_crops(source: Path, out: Path) -> None:
    """Write the same window of image and mask, in the layout of the published tiles."""
    for tile, part, row, column in CROPS:
        box = (column, row, column + COLUMNS, row + ROWS)
        image = Path(f"tile{tile}", "images", f"image_part_{part:03}.jpg")
        mask = Path(f"tile{tile}", "masks", f"image_part_{part:03}.png")
        for name in (image, mask):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source / image) as whole:
            whole.crop(box).save(out / image, quality=92, subsampling=0)
        # A crop keeps the mode, so that a palette mask stays one.
        with Image.open(source / mask) as whole:
            whole.crop(box).save(out / mask, optimize=True)


def write_mosaic(source: Path, path: Path) -> None:
    """Write the nine parts of tile 1, row by row, as one raster without CRS."""
    parts = [
        np.asarray(Image.open(source / "tile1" / "images" / f"image_part_{part:03}.jpg"))
        for part in range(1, 10)
    ]
    # The parts of a row are equally high, and rows follow each other without a gap or an overlap.
    mosaic = np.concatenate(
        [np.concatenate(parts[first : first + 3], axis=1) for first in (0, 3, 6)]
    )
    height, width, bands = mosaic.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=bands,
            dtype="uint8",
            photometric="ycbcr",
            compress="jpeg",
            jpeg_quality=80,
            tiled=True,
            blockxsize=256,
            blockysize=256,
        ) as raster:
            raster.write(mosaic.transpose(2, 0, 1))


def main() -> None:
    """Write all examples."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder of the published tiles")
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent)
    arguments = parser.parse_args()
    write_crops(arguments.source, arguments.out / "dubai")
    write_mosaic(arguments.source, arguments.out / "dubai_tile1.tif")


if __name__ == "__main__":
    main()
