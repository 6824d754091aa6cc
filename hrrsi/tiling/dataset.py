"""A tiled dataset: ``dataset.yaml`` beside ``{train,val,test}/{image,label}/NAME.png``.

Its files of patches are written and read here: images, and labels with the scheme's colours.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from hrrsi.classes import IGNORE_INDEX, Colour, class_palette
from hrrsi.errors import HrrsiError, InputError, MissingInputError
from hrrsi.files import dump_yaml, read_yaml
from hrrsi.labels.merged_classes import label_candidates, label_colours
from hrrsi.labels.scheme import (
    PartialLabel,
    ValidatedColour,
    built_in_meanings,
    check_statistics,
    invalid_file,
)
from hrrsi.labels.splits import Part
from hrrsi.scenes.input_bands import InputBands
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

SplitLabels = Literal["full", "eroded", "none"]
SPLITS = ("train", "val", "test")
DESCRIPTION = "dataset.yaml"
TILE_AGAIN = "tile it again: `hrrsi.tile(overwrite)`"
PatchFormat = Literal["png", "tif"]


class SplitContent(BaseModel):
    """What one split holds.

    Attributes:
        scenes: Names of its scenes.
        patches: Number of patches.
        class_pixels: Labelled pixels of each class.
        partial_pixels: Pixels of each partial label, where the dataset has any.
        ignored_pixels: Pixels that no class is given for (label 255).
        labels: Whether its labels are full, or eroded at the borders of classes, or there are none:
            every pixel is ignored, and teachers alone know what it shows.
    """

    model_config = ConfigDict(extra="forbid")
    scenes: list[str]
    patches: int
    class_pixels: list[int]
    partial_pixels: list[int] = []
    ignored_pixels: int
    labels: SplitLabels = "full"

    @property
    def label_pixels(self) -> list[int]:
        """Pixels of each class, then of each partial label."""
        return [*self.class_pixels, *self.partial_pixels]


class DatasetDescription(BaseModel):
    """What ``dataset.yaml`` says.

    Attributes:
        format: Version of this layout.
        scheme: Name of the label scheme.
        split: Name of the split, its file, or ``"chosen scenes"``.
        classes: Class names in the order of their indices.
        colours: Class colours, likewise.
        partial: Labels that stand for several classes, in the order of their indices, which follow
            those of the classes; not in the file where there are none.
        bands: The 1-based bands that the patches hold of scenes that don't name theirs.
        band_meanings: What each of these shows, as `hrrsi.scenes.bands.band_meanings` calls it;
            None (and not in the file) where that is not known.
        height: Where the heights of the patches' last band come from, as `TileOptions.height`
            says it; None (and not in the file) where patches hold the scenes' bands alone.
        dtype: NumPy name of the scenes' type, which patches have too (`patch_dtype`), unless they
            hold heights.
        scale: The value that counts as 1: bands, heights among them, are divided by it, then
            normalised.
        mean: Mean of each band of the patches after that division.
        std: Standard deviation of each band, likewise.
        statistics: Whether mean and std come from the scheme or were measured on the training
            patches; those of heights always were.
        class_frequencies: Share of each class in the labelled pixels of the training patches, to
            which a partial label counts in equal parts for its classes; zeros where none has a
            label.
        resolution: Ground sampling distance in metres per pixel.
        resampled_from: The finest and the coarsest that scenes had before they were brought to it;
            None (and not in the file) where patches hold the scenes' own pixels.
        patch_size: Rows and columns of a patch.
        stride: Pixels from one patch to the next.
        patch_format: Suffix of the patches' files.
        splits: What each split holds.
    """

    model_config = ConfigDict(extra="forbid")
    format: Literal[1] = 1
    scheme: str
    split: str | None = None
    classes: list[str] = Field(min_length=1)
    colours: list[ValidatedColour]
    partial: list[PartialLabel] = []
    bands: list[int]
    band_meanings: tuple[str | None, ...] | None = None
    height: str | None = None
    dtype: str
    scale: float = Field(gt=0)
    mean: list[float]
    std: list[float]
    statistics: Literal["scheme", "measured"]
    class_frequencies: list[float]
    resolution: float | Literal["unknown"]
    resampled_from: tuple[float, float] | None = None
    patch_size: int = Field(gt=0)
    stride: int = Field(gt=0)
    patch_format: Literal["png", "tif"]
    splits: dict[Part, SplitContent]

    @model_validator(mode="after")
    def _check(self) -> DatasetDescription:
        check_statistics(self.mean, self.std)
        bands, classes = len(self.band_names), len(self.classes)
        if self.band_meanings is not None and len(self.band_meanings) != len(self.bands):
            raise ValueError(
                f"band_meanings has {len(self.band_meanings)} entries for {len(self.bands)} bands"
            )
        if len(self.mean) != bands:
            raise ValueError(f"mean and std have {len(self.mean)} entries for {bands} bands")
        of_classes = {
            "colours": len(self.colours),
            "class_frequencies": len(self.class_frequencies),
            **{f"{name}.class_pixels": len(s.class_pixels) for name, s in self.splits.items()},
        }
        for name, length in of_classes.items():
            if length != classes:
                raise ValueError(f"{name} has {length} entries for {classes} classes")
        for name, content in self.splits.items():
            if len(content.partial_pixels) != len(self.partial):
                raise ValueError(
                    f"{name}.partial_pixels has {len(content.partial_pixels)} entries for "
                    f"{len(self.partial)} partial labels"
                )
        unknown = {name for label in self.partial for name in label.classes} - {*self.classes}
        if unknown:
            raise ValueError(f"partial: no class is named {min(unknown)!r}")
        return self

    @property
    def metres_per_pixel(self) -> float | None:
        """The ground sampling distance, or None where it is not known."""
        return None if self.resolution == "unknown" else self.resolution

    @property
    def label_names(self) -> list[str]:
        """Names of the classes, then of the partial labels: label patches hold their indices."""
        return [*self.classes, *(label.name for label in self.partial)]

    @property
    def label_colours(self) -> list[Colour]:
        """Their colours, likewise."""
        return label_colours(self.colours, self.partial)

    @property
    def candidates(self) -> list[list[int]]:
        """Indices of the classes that each label index stands for: one, or several."""
        return label_candidates(self.classes, self.partial)

    @property
    def is_unlabelled(self) -> bool:
        """Whether its training patches have no labels."""
        content = self.split_content("train")
        return content is not None and content.labels == "none"

    def split_content(self, split: str) -> SplitContent | None:
        """Return what a split holds, or None where it is not described."""
        return next((content for name, content in self.splits.items() if name == split), None)

    @property
    def patch_dtype(self) -> str:
        """NumPy name of the patches' type."""
        return self.dtype if self.height is None else "float32"

    @property
    def band_names(self) -> list[str]:
        """What each band of the patches is, as `hrrsi.scenes.input_bands.band_names` calls it."""
        return self.input_bands.names

    @property
    def input_bands(self) -> InputBands:
        """The bands of the patches; what they show also by the word of a built-in scheme."""
        meanings = self.band_meanings or built_in_meanings(self.scheme, tuple(self.bands))
        return InputBands(tuple(self.bands), meanings, self.height is not None)

    def to_yaml(self) -> str:
        """Return the text of ``dataset.yaml``."""
        values = self.model_dump(mode="json")
        for name in ("height", "band_meanings", "resampled_from"):
            if values[name] is None:
                del values[name]
        if self.partial:
            for label in values["partial"]:
                del label["code"], label["index"]
        else:
            del values["partial"]
            for content in values["splits"].values():
                del content["partial_pixels"]
        return dump_yaml(values)


class Patch(NamedTuple):
    """One patch: its name, and the files of its image and its label."""

    name: str
    image: Path
    label: Path

    @property
    def scene(self) -> str:
        """The scene that it was cut from; its name ends in its row and its column there."""
        return self.name.rsplit("_", 2)[0]


class TiledDataset:
    """A tiled dataset on disk.

    Args:
        folder: The folder that holds ``dataset.yaml``.

    Attributes:
        folder: The folder.
        description: What ``dataset.yaml`` says.

    Raises:
        InputError: The folder is not a tiled dataset, or its description is not valid.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / DESCRIPTION
        if not path.is_file():
            raise MissingInputError(
                f"is not a tiled dataset (no {DESCRIPTION})",
                where=folder,
                fix="make one with `hrrsi tile`",
            )
        self.folder = folder
        try:
            self.description = DatasetDescription.model_validate(read_yaml(path))
        except ValidationError as error:
            raise invalid_file(path, error, "run `hrrsi tile` again") from error

    def patches(self, split: str) -> list[Patch]:
        """Return the patches of a split in the order of their names.

        Raises:
            InputError: The split has no patches, or image and label files don't pair up.
        """
        suffix = f".{self.description.patch_format}"
        images = sorted((self.folder / split / "image").glob(f"*{suffix}"))
        if not images:
            present = ", ".join(s for s in SPLITS if (self.folder / s / "image").is_dir())
            raise MissingInputError(
                f"has no patches in the split {split!r}",
                where=self.folder,
                fix=f"it has {present or 'none at all'}; tile it with that split",
            )
        labels = self.folder / split / "label"
        patches = [Patch(path.stem, path, labels / path.name) for path in images]
        for patch in patches:
            if not patch.label.is_file():
                raise MissingInputError("is missing", where=patch.label, fix=TILE_AGAIN)
        expected = self.description.split_content(split)
        if expected is not None and expected.patches != len(patches):
            raise InputError(
                f"holds {len(patches)} patches where {DESCRIPTION} says {expected.patches}",
                where=self.folder / split,
                fix=TILE_AGAIN,
            )
        return patches


@dataclass(frozen=True)
class Georeference:
    """Where a patch lies: a CRS as WKT where there is one, and the transform of its pixels."""

    crs: str | None
    transform: Affine


def patch_format(dtype: str, bands: int) -> PatchFormat:
    """Return ``"png"`` where PNG holds such patches without calling a band alpha."""
    return "png" if dtype == "uint8" and bands in (1, 3) else "tif"


def image_bytes(
    pixels: npt.NDArray[Any],
    file_format: PatchFormat,
    georeference: Georeference | None,
    names: Sequence[str] = (),
) -> bytes:
    """Return an image patch as the content of a file.

    Args:
        pixels: (bands, height, width).
        file_format: PNG takes one or three bands of uint8.
        georeference: Written to TIFF only.
        names: What the bands are, written to TIFF only.
    """
    if file_format == "tif":
        predictor = 3 if np.issubdtype(pixels.dtype, np.floating) else 2
        return _tiff_bytes(
            pixels, georeference, names=names, predictor=predictor, photometric="MINISBLACK"
        )
    array = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    # Photographs hardly shrink further at higher levels.
    return _png_bytes(Image.fromarray(array), compress_level=3)


def label_bytes(
    indices: npt.NDArray[np.uint8],
    colours: Sequence[Colour],
    file_format: PatchFormat,
    georeference: Georeference | None,
) -> bytes:
    """Return a label patch as the content of a single-band file with a palette.

    Args:
        indices: (height, width) class indices, 255 where ignored (black in the palette).
        colours: Colour of each class, then of each partial label.
        file_format: PNG or TIFF.
        georeference: Written to TIFF only.
    """
    if file_format == "tif":
        palette = {i: (*c, 255) for i, c in enumerate(colours)}
        palette[IGNORE_INDEX] = (0, 0, 0, 255)
        return _tiff_bytes(indices[np.newaxis], georeference, palette=palette)
    height, width = indices.shape
    image = Image.frombytes("P", (width, height), indices.tobytes())
    image.putpalette(class_palette(colours).tobytes())
    return _png_bytes(image, compress_level=6)


def read_image(patch: Patch, description: DatasetDescription) -> npt.NDArray[Any]:
    """Return a patch's image as (bands, size, size) in the type of the dataset's patches.

    Args:
        patch: The patch.
        description: What the dataset says of its patches.

    Raises:
        InputError: The file can't be read, or has another size or other bands.
    """
    return _pixels(patch.image, description.patch_size, len(description.band_names))


def read_label(patch: Patch, description: DatasetDescription) -> npt.NDArray[np.uint8]:
    """Return a patch's label as (size, size) uint8: class indices, 255 where ignored.

    Args:
        patch: The patch.
        description: What the dataset says of its patches.

    Raises:
        InputError: The file can't be read, has another size, or holds an index that is no class.
    """
    label: npt.NDArray[np.uint8] = _pixels(patch.label, description.patch_size, 1)[0]
    labels = len(description.label_names)
    unknown = (label >= labels) & (label != IGNORE_INDEX)
    if unknown.any():
        row, col = np.argwhere(unknown)[0]
        raise InputError(
            f"holds the class index {label[row, col]} at row {row}, column {col}, where the "
            f"dataset has {labels} classes",
            where=patch.label,
            fix=TILE_AGAIN,
        )
    return label


def _png_bytes(image: Image.Image, *, compress_level: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def _tiff_bytes(
    pixels: npt.NDArray[Any],
    georeference: Georeference | None,
    *,
    palette: dict[int, tuple[int, int, int, int]] | None = None,
    names: Sequence[str] = (),
    **options: Any,
) -> bytes:
    bands, height, width = pixels.shape
    place = (
        {}
        if georeference is None
        else {"crs": georeference.crs, "transform": georeference.transform}
    )
    with MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(
            driver="GTiff",
            count=bands,
            height=height,
            width=width,
            dtype=pixels.dtype.name,
            compress="deflate",
            **place,
            **options,
        ) as dataset:
            dataset.write(pixels)
            for band, name in enumerate(names, start=1):
                dataset.set_band_description(band, name)
            if palette is not None:
                dataset.write_colormap(1, palette)
        content: bytes = memory.read()
    return content


def _pixels(path: Path, size: int, bands: int) -> npt.NDArray[Any]:
    try:
        with open_raster(path) as dataset:
            shape = (dataset.height, dataset.width, dataset.count)
            if shape == (size, size, bands):
                scene = Scene(str(path), dataset, tuple(range(1, bands + 1)))
                return scene.read(Window(0, 0, size, size))
    except HrrsiError as error:  # of a raster: what to do about a patch is another thing
        fix = f"copy the dataset again, or {TILE_AGAIN}"
        raise InputError(error.what, where=path, fix=fix) from error
    raise InputError(
        f"has {shape[0]} rows, {shape[1]} columns and {shape[2]} bands, not {size}, {size} and "
        f"{bands}",
        where=path,
        fix=TILE_AGAIN,
    )
