"""What a caller decides about tiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hrrsi.classes import LabelFormat, UnknownLabels
from hrrsi.errors import OptionError

SMALLEST_PATCH = 32  # rows and columns; networks halve a patch five times


@dataclass(frozen=True)
class TileOptions:
    """How scenes and labels are read, split and cut into patches.

    Attributes:
        size: Rows and columns of a patch, in pixels, 32 or more.
        stride: Pixels from one patch to the next, 1 to `size`; None: `size`.
        split: A split of the scheme by name, or a YAML file with lists ``train``, ``val`` and
            ``test`` of scene names; None: the scheme's first, unless scenes are chosen.
        val_scenes: Names or patterns of validation scenes; beside a `split` that names none they
            are taken from its training scenes.
        test_scenes: Names or patterns of test scenes, not beside `split`.
        label_format: What labels hold; None: what the scheme says, or ``polygons`` with a
            `label_file`.
        label_file: One vector file with the polygons of all scenes, instead of a label a scene.
        attribute: The polygons' attribute that holds the class; None: the scheme's.
        background: The class of what lies outside of all polygons: one of the scheme, or another
            name, which becomes its last class; None: the scheme's `outside`, else it is ignored.
        eroded: Whether val and test take labels with eroded class borders; train never does.
        merges: Classes to join, e.g. ``"tree+low vegetation=vegetation"``.
        aoi: Vector file of polygons; pixels outside are ignored, patches wholly outside left out.
        bands: The 1-based bands to keep, each once; None: all but alpha.
        nodata: Value of pixels without data, beside what the scenes declare; ``auto``: the one that
            collars, empty blocks and marks such as -9999 hold, if there are any.
        scale: The scenes' value that counts as full brightness, above 0; None: what the scenes
            declare, else an estimate.
        height: Height models as one more band: a raster for all scenes, a folder, a template
            (`hrrsi.scenes.height_files.height_files`), or ``scheme`` for the scheme's.
        unknown: Whether labels that the scheme doesn't know are an error or ignored.
        unlabelled: Whether training scenes may lack labels, and patches labelled pixels: they are
            kept for a training with teachers (`hrrsi.TrainOptions.teachers`). Where no scene has a
            label and none is chosen, all of them train.
        workers: Processes, 1 or more; None: one a core. The dataset is the same for any.

    Raises:
        OptionError: One is not usable.
    """

    size: int = 512
    stride: int | None = None
    split: str | None = None
    val_scenes: Sequence[str] = ()
    test_scenes: Sequence[str] = ()
    label_format: LabelFormat | None = None
    label_file: str | Path | None = None
    attribute: str | None = None
    background: str | None = None
    eroded: bool = False
    merges: Sequence[str] = ()
    aoi: str | Path | None = None
    bands: Sequence[int] | None = None
    nodata: float | Literal["auto"] | None = None
    scale: float | None = None
    height: str | None = None
    unknown: UnknownLabels = "error"
    unlabelled: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("val_scenes", "test_scenes", "merges", "bands"):
            value = getattr(self, name)
            if value is not None:  # so that options are equal, and hashed, by their values
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.nodata, str) and self.nodata != "auto":
            raise OptionError(
                f"{self.nodata!r} is no value", parameter="nodata", fix="give a number, or auto"
            )
        if self.background is not None and not self.background.strip():
            raise OptionError("is empty", parameter="background", fix="give a class' name")
        if self.size < SMALLEST_PATCH:
            raise OptionError(
                f"patches of {self.size} px are too small",
                parameter="size",
                fix=f"give {SMALLEST_PATCH} or more",
            )
        if self.effective_stride < 1:
            raise OptionError("must be 1 or more", parameter="stride")
        if self.effective_stride > self.size:
            raise OptionError(
                f"{self.stride} would leave gaps between patches of {self.size}",
                parameter="stride",
            )
        if self.bands is not None and len(set(self.bands)) < len(self.bands):
            raise OptionError("name each band once", parameter="bands")
        if self.workers is not None and self.workers < 1:
            raise OptionError("must be 1 or more", parameter="workers")
        _require_choice("label_format", self.label_format, (None, *get_args(LabelFormat)))
        _require_choice("unknown", self.unknown, get_args(UnknownLabels))
        if self.scale is not None:
            from hrrsi.scenes.value_scale import check_scale  # numpy, which --help does without

            check_scale(self.scale)

    @property
    def effective_stride(self) -> int:
        """Pixels from one patch to the next: `stride`, or `size`."""
        return self.size if self.stride is None else self.stride

    @property
    def effective_label_format(self) -> LabelFormat | None:
        """What labels hold, or None where the scheme says it."""
        if self.label_format is None and self.label_file is not None:
            return "polygons"
        return self.label_format


def _require_choice(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices if choice is not None)
        raise OptionError(f"is not {value!r}", parameter=name, fix=f"choose from {listed}")
