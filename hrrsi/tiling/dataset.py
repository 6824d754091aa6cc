"""A tiled dataset: ``dataset.yaml`` beside ``{train,val,test}/{image,label}/NAME.png``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hrrsi.classes import Colour
from hrrsi.errors import InputError, MissingInputError
from hrrsi.labels.scheme import (
    PartialLabel,
    ValidatedColour,
    check_statistics,
    invalid_file,
    label_candidates,
)
from hrrsi.labels.splits import Part
from hrrsi.yaml_file import dump_yaml, read_yaml

SplitLabels = Literal["full", "eroded", "none"]
SPLITS = ("train", "val", "test")
DESCRIPTION = "dataset.yaml"
TILE_AGAIN = "tile it again: `hrrsi.tile(overwrite)`"


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
        bands: The 1-based bands of the scenes that the patches hold.
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
    height: str | None = None
    dtype: str
    scale: float = Field(gt=0)
    mean: list[float]
    std: list[float]
    statistics: Literal["scheme", "measured"]
    class_frequencies: list[float]
    resolution: float | Literal["unknown"]
    patch_size: int = Field(gt=0)
    stride: int = Field(gt=0)
    patch_format: Literal["png", "tif"]
    splits: dict[Part, SplitContent]

    @model_validator(mode="after")
    def _check(self) -> DatasetDescription:
        check_statistics(self.mean, self.std)
        bands, classes = len(self.band_names), len(self.classes)
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
    def label_names(self) -> list[str]:
        """Names of the classes, then of the partial labels: label patches hold their indices."""
        return [*self.classes, *(label.name for label in self.partial)]

    @property
    def label_colours(self) -> list[Colour]:
        """Their colours, likewise."""
        return [*self.colours, *(label.colour for label in self.partial)]

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
        """What each band of the patches is, as `band_names` calls it."""
        return band_names(self.bands, has_height=self.height is not None)

    def to_yaml(self) -> str:
        """Return the text of ``dataset.yaml``."""
        values = self.model_dump(mode="json")
        if self.height is None:
            del values["height"]
        if self.partial:
            for label in values["partial"]:
                del label["code"], label["index"]
        else:
            del values["partial"]
            for content in values["splits"].values():
                del content["partial_pixels"]
        return dump_yaml(values)


def band_names(bands: Sequence[int], *, has_height: bool) -> list[str]:
    """Return what bands are: ``band 4`` of the scenes, or ``height``, the last one.

    Args:
        bands: The 1-based bands of the scenes.
        has_height: Whether heights come after them.
    """
    return [f"band {band}" for band in bands] + ["height"] * has_height


class Patch(NamedTuple):
    """One patch: its name, and the files of its image and its label."""

    name: str
    image: Path
    label: Path


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
