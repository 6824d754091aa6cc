"""Writes a cloud-optimised GeoTIFF from the raw files of its bands."""

from __future__ import annotations

import errno
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from hrrsi.errors import OutputError, one_line
from hrrsi.interruption import stop_if_requested
from hrrsi.maps.raw_pyramid import TILE, RawPyramid, write_errors
from hrrsi.scenes.pixel_reader import rasterio_window
from hrrsi.scenes.raster_opening import GDAL_ERRORS
from hrrsi.scenes.windows import Window

# Raw files come from the system's cache; GDAL's own would only grow to its limit.
_BLOCK_CACHE = 32 * 2**20
_GDAL_TYPES = {"uint8": "Byte", "float32": "Float32"}
_RPC = "RPC"  # rational polynomial coefficients, in GDAL's words
_COLUMNS = 8 * TILE  # of what is read back at once
FREE_SPACE = "free space on the disk, or choose another `out`"


def write_cloud_optimised(
    file: Path,
    scene: Any,
    bands: Sequence[RawPyramid],
    *,
    final: Path,
    describe: Callable[[Any], None],
    smooth: bool = False,
) -> None:
    """Write a cloud-optimised GeoTIFF.

    Tiles of 512 px, DEFLATE, with the bands' overviews. Memory does not grow with its size. The
    same values give the same bytes, however many threads compress them.

    Args:
        file: What is written.
        scene: The rasterio dataset whose CRS and transform, ground control points or rational
            polynomials (RPC) it has.
        bands: Its bands, complete, with their files in one folder.
        final: The name that the file will have, for messages.
        describe: Called with the dataset, open for changes, to set what else the file says:
            palette, names, nodata, tags.
        smooth: Whether neighbouring values are alike but seldom equal, as scores are: then their
            differences are compressed, and less thoroughly (1 % larger, twice as fast).

    Raises:
        OutputError: The disk is full, or what is read back is not what was written.
    """
    errors = _WriteErrors(final)
    with (
        rasterio.Env(
            GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE="SIBLING_OR_CHILD_OF_VRT_PATH",
            GDAL_CACHEMAX=_BLOCK_CACHE,
        ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with write_errors(final, FREE_SPACE):
            source = _virtual_raster(bands)
        try:
            with rasterio.open(source, "r+") as dataset:
                _georeference(dataset, scene)
                describe(dataset)
            errors.expect_end(source, "</VRTDataset>")
            with rasterio.open(source, opener=errors.open) as dataset:
                # while a dataset is open through an opener, so is all below this prefix
                prefix = dataset.name.removesuffix(str(source))
                rasterio.shutil.copy(
                    source,
                    prefix + str(file.absolute()),
                    driver="COG",
                    compress="deflate",
                    level=3 if smooth else 6,
                    predictor="yes" if smooth else "no",
                    blocksize=TILE,
                    overviews="force_use_existing" if len(bands[0].levels) > 1 else "none",
                    num_threads="all_cpus",
                    bigtiff="if_safer",
                )
            errors.raise_first()
            _check_written(file, bands, final)
        except Exception as error:
            errors.raise_first()  # what GDAL then stumbled over is not the cause
            if not isinstance(error, GDAL_ERRORS):
                raise
            cause = one_line(error)
            raise OutputError(
                f"cannot be written ({cause})", where=final, fix="check the disk and its folder"
            ) from error


def _check_written(file: Path, bands: Sequence[RawPyramid], final: Path) -> None:
    """Read a file back, overviews too, and compare it with what it was written from.

    Raises:
        OutputError: It differs.
    """
    damaged = OutputError(
        "is not on the disk as it was written",
        where=final,
        fix="check the disk, then go on with `resume`",
    )
    levels = bands[0].levels
    for index, level in enumerate(levels):
        options = {} if index == 0 else {"overview_level": index - 1}
        try:
            with rasterio.open(file, num_threads="all_cpus", **options) as dataset:
                if (dataset.height, dataset.width) != (level.height, level.width):
                    raise damaged
                for window in _blocks(level.height, level.width):
                    stop_if_requested()
                    blocks = dataset.read(window=rasterio_window(window))
                    for band, values in zip(bands, blocks, strict=True):
                        if band.block(index, window).tobytes() != values.tobytes():
                            raise damaged
        except RasterioError as error:
            raise damaged from error


def _blocks(height: int, width: int) -> Iterator[Window]:
    """Yield windows that cover a raster, each made up of whole tiles."""
    for row in range(0, height, TILE):
        for col in range(0, width, _COLUMNS):
            yield Window(row, col, min(TILE, height - row), min(_COLUMNS, width - col))


def _virtual_raster(bands: Sequence[RawPyramid]) -> Path:
    """Write what lets GDAL read the raw files as a raster with overviews, beside them."""
    overviews: list[Path] = []
    for level in reversed(range(len(bands[0].levels))):
        files = [band.levels[level] for band in bands]
        root = ET.Element(
            "VRTDataset", rasterXSize=str(files[0].width), rasterYSize=str(files[0].height)
        )
        for number, (band, (file, _, width)) in enumerate(zip(bands, files, strict=True), start=1):
            element = ET.SubElement(
                root,
                "VRTRasterBand",
                dataType=_GDAL_TYPES[band.dtype.name],
                band=str(number),
                subClass="VRTRawRasterBand",
            )
            for overview in [] if level else reversed(overviews):
                child = ET.SubElement(element, "Overview")
                ET.SubElement(child, "SourceFilename", relativeToVRT="1").text = overview.name
                ET.SubElement(child, "SourceBand").text = str(number)
            ET.SubElement(element, "SourceFilename", relativeToVRT="1").text = file.name
            for key, value in (
                ("ImageOffset", "0"),
                ("PixelOffset", str(band.dtype.itemsize)),
                ("LineOffset", str(band.dtype.itemsize * width)),
                ("ByteOrder", "LSB"),
            ):
                ET.SubElement(element, key).text = value
        path = files[0].file.with_suffix(".vrt")
        path.write_text(ET.tostring(root, encoding="unicode"), encoding="utf-8")
        overviews.append(path)
    return overviews[-1].absolute()


def _georeference(dataset: Any, scene: Any) -> None:
    control_points, control_crs = scene.gcps
    if scene.crs is not None:
        dataset.crs = scene.crs
    if not scene.transform.is_identity:
        dataset.transform = scene.transform
    if control_points:
        dataset.gcps = (control_points, control_crs)
    coefficients = scene.tags(ns=_RPC)
    if coefficients:
        dataset.update_tags(ns=_RPC, **coefficients)


class _WriteErrors:
    """Opens the files that GDAL writes, and keeps the first error of writing to them.

    A full disk can show when GDAL closes a file, and then it says nothing, or in lines that go
    past the program to the terminal. So errors are kept from GDAL, and raised here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.first: OSError | None = None

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.FileIO:
        """Return a file as rasterio wants it from an opener."""
        return _KeepingFile(path, mode.replace("b", ""), self)

    def expect_end(self, file: Path, end: str) -> None:
        """Raise unless a text that GDAL has written by itself is whole.

        Raises:
            OutputError: It could not be written.
        """
        if not file.read_text(encoding="utf-8").rstrip().endswith(end):
            self.first = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.raise_first()

    def raise_first(self) -> None:
        """Raise the first error, if there was any.

        Raises:
            OutputError: Something could not be written.
        """
        if self.first is not None:
            with write_errors(self._path, FREE_SPACE):
                raise self.first


class _KeepingFile(io.FileIO):
    def __init__(self, path: str, mode: str, errors: _WriteErrors) -> None:
        super().__init__(path, mode)
        self._errors = errors

    def write(self, data: Any) -> int:
        """Write all of `data`, and say so even where that failed."""
        rest = memoryview(data)
        while rest.nbytes and self._errors.first is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self._errors.first = error
        return len(data)
