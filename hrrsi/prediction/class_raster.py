"""Writes a class map: a GeoTIFF with palette, class names, and the georeference of its scene."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterioWindow

from hrrsi.atomic_write import replacing
from hrrsi.errors import HrrsiError
from hrrsi.labels.scheme import IGNORE_INDEX, Colour
from hrrsi.prediction.class_sidecars import pam_xml, qml_style
from hrrsi.scenes.scene import open_raster

_BLOCK = 512
_SMALLEST_OVERVIEW = 256
_TAG = "HRRSI_"


class ClassRasterContent(NamedTuple):
    """What a class map of ours says of itself.

    Attributes:
        classes: Class names in the order of their indices.
        class_pixels: Pixels of each class.
        nodata_pixels: Pixels without data.
        provenance: What made it: version, weights, options.
    """

    classes: list[str]
    class_pixels: list[int]
    nodata_pixels: int
    provenance: dict[str, str]


class ClassRasterWriter:
    """Takes strips of labels from top to bottom, and writes whole rows of tiles.

    Use `writing_class_raster`.

    Attributes:
        class_pixels: Pixels of each class so far.
        nodata_pixels: Pixels without data so far.
    """

    def __init__(self, dataset: Any, num_classes: int, errors: _WriteErrors) -> None:
        self._dataset = dataset
        self._errors = errors
        self._pending = np.empty((0, dataset.width), dtype=np.uint8)
        self._row = 0
        self.class_pixels = [0] * num_classes
        self.nodata_pixels = 0

    def write(self, first_row: int, labels: npt.NDArray[np.uint8]) -> None:
        """Write the next strip.

        Args:
            first_row: Its first row, where the previous strip ended.
            labels: (rows, width) class indices, 255 where there is no data.

        Raises:
            HrrsiError: The disk is full.
        """
        expected = self._row + len(self._pending)
        if first_row != expected:
            raise ValueError(f"strip starts at row {first_row}, not at {expected}")
        counts = [int(np.count_nonzero(labels == c)) for c in range(len(self.class_pixels))]
        self.class_pixels = [total + n for total, n in zip(self.class_pixels, counts, strict=True)]
        self.nodata_pixels += labels.size - sum(counts)
        self._pending = np.concatenate((self._pending, labels))
        end = expected + len(labels)
        whole = len(self._pending) // _BLOCK * _BLOCK
        if end == self._dataset.height:
            whole = len(self._pending)
        if whole:
            window = RasterioWindow(0, self._row, self._dataset.width, whole)
            self._dataset.write(self._pending[:whole], 1, window=window)
            self._errors.raise_first()
            self._row += whole
            self._pending = self._pending[whole:].copy()


@contextmanager
def writing_class_raster(
    path: Path,
    scene: Any,
    *,
    classes: Sequence[str],
    colours: Sequence[Colour],
    has_nodata: bool,
    provenance: Mapping[str, str],
) -> Iterator[ClassRasterWriter]:
    """Yield a writer; the class map and its sidecars appear once the block succeeds.

    The map is a single-band uint8 GeoTIFF, tiled, DEFLATE, with palette, overviews, and the
    scene's size, CRS, and transform or ground control points. Class names stand in a style beside
    it (``NAME.qml``, which QGIS loads by itself) and in GDAL's sidecar (``NAME.tif.aux.xml``:
    category names, and an attribute table with colours and pixel counts).

    Args:
        path: The map; what is there is replaced.
        scene: The rasterio dataset whose grid it has.
        classes: Class names in the order of their indices.
        colours: Class colours, likewise.
        has_nodata: Whether 255 is declared as no data.
        provenance: What made the map, e.g. ``{"WEIGHTS": "x.safetensors"}``; written as tags
            with ``HRRSI_`` before them.

    Raises:
        HrrsiError: The folder is not writable, or the disk is full.
    """
    style = path.with_suffix(".qml")
    sidecar = path.with_name(path.name + ".aux.xml")
    errors = _WriteErrors(path)
    # left in reverse order: the map gets its name last, when its sidecars have theirs
    with (
        replacing(path) as raster_file,
        replacing(sidecar) as sidecar_file,
        replacing(style) as style_file,
    ):
        try:
            with _created(raster_file, scene, has_nodata, errors) as dataset:
                _describe(dataset, classes, colours, provenance)
                writer = ClassRasterWriter(dataset, len(classes), errors)
                yield writer
            errors.raise_first()
            with _opened(raster_file, "r+", errors) as dataset:
                dataset.update_tags(**{_TAG + "CLASS_PIXELS": json.dumps(writer.class_pixels)})
                levels = overview_levels(dataset.height, dataset.width)
                if levels:
                    dataset.build_overviews(levels, Resampling.mode)
            errors.raise_first()
        except Exception:
            errors.raise_first()  # what GDAL then stumbled over is not the cause
            raise
        style_file.write_text(qml_style(classes, colours), encoding="utf-8")
        sidecar_file.write_text(pam_xml(classes, colours, writer.class_pixels), encoding="utf-8")


def read_class_raster(path: str | Path) -> ClassRasterContent | None:
    """Return what a class map says of itself, or None for a raster that is not one of ours.

    Raises:
        HrrsiError: Not a readable raster.
    """
    with open_raster(path) as dataset:
        tags = dataset.tags()
        try:
            classes = json.loads(tags[_TAG + "CLASSES"])
            class_pixels = json.loads(tags[_TAG + "CLASS_PIXELS"])
        except (KeyError, json.JSONDecodeError):
            return None
        nodata = dataset.width * dataset.height - sum(class_pixels)
    provenance = {
        key.removeprefix(_TAG): value
        for key, value in tags.items()
        if key.startswith(_TAG) and key not in (_TAG + "CLASSES", _TAG + "CLASS_PIXELS")
    }
    return ClassRasterContent(classes, class_pixels, nodata, provenance)


def overview_levels(height: int, width: int) -> list[int]:
    """Return the factors of the overviews: halved until the longer side is 256 px or less."""
    levels = []
    factor = 2
    while max(height, width) * 2 > _SMALLEST_OVERVIEW * factor and max(height, width) > _BLOCK:
        levels.append(factor)
        factor *= 2
    return levels


@contextmanager
def _created(path: Path, scene: Any, has_nodata: bool, errors: _WriteErrors) -> Iterator[Any]:
    """Yield a new dataset on the scene's grid."""
    control_points, control_crs = scene.gcps
    with _opened(
        path,
        "w",
        errors,
        driver="GTiff",
        width=scene.width,
        height=scene.height,
        count=1,
        dtype="uint8",
        crs=scene.crs,
        transform=None if scene.transform.is_identity else scene.transform,
        nodata=IGNORE_INDEX if has_nodata else None,
        tiled=True,
        blockxsize=_BLOCK,
        blockysize=_BLOCK,
        compress="deflate",
        num_threads="all_cpus",
        bigtiff="if_safer",
    ) as dataset:
        if control_points:
            dataset.gcps = (control_points, control_crs)
        yield dataset


def _opened(path: Path, mode: str, errors: _WriteErrors, **profile: Any) -> Any:
    """Return a rasterio dataset, opened without a warning where there is no georeference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, opener=errors.open, **profile)


def _describe(
    dataset: Any, classes: Sequence[str], colours: Sequence[Colour], provenance: Mapping[str, str]
) -> None:
    palette = {index: (*colour, 255) for index, colour in enumerate(colours)}
    dataset.write_colormap(1, {**palette, IGNORE_INDEX: (0, 0, 0, 0)})
    dataset.colorinterp = [ColorInterp.palette]
    dataset.set_band_description(1, "class")
    dataset.update_tags(
        **{_TAG + "CLASSES": json.dumps(list(classes), ensure_ascii=False)},
        **{_TAG + key: value for key, value in provenance.items()},
    )


class _WriteErrors:
    """Opens the files that GDAL writes, and keeps the first error of writing to them.

    A full disk shows in the tiles that GDAL writes when it closes a file, and neither GDAL nor
    rasterio says so. So errors are kept from GDAL, and raised here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.first: OSError | None = None

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.FileIO:
        """Return a file as rasterio wants it from an opener."""
        return _KeepingFile(path, mode.replace("b", ""), self)

    def raise_first(self) -> None:
        """Raise the first error, if there was any.

        Raises:
            HrrsiError: Something could not be written.
        """
        if self.first is not None:
            raise HrrsiError(
                f"cannot be written ({self.first.strerror})",
                where=self._path,
                fix="free space on the disk, or choose another --out",
            ) from self.first


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
