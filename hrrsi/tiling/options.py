"""What a caller decides about tiling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hrrsi.classes import LabelFormat, UnknownLabels
from hrrsi.errors import OptionError, require_choice
from hrrsi.scenes.windows import default_overlap

SMALLEST_PATCH = 32  # rows and columns; networks halve a patch five times


@dataclass(frozen=True)
class TileOptions:
    """How scenes and labels are read, split and cut into patches.

    Attributes:
        size: Rows and columns of a patch, in pixels, 32 or more.
        stride: Pixels from one patch to the next, 1 to `size`; None: `size`.
        resolution: Metres a pixel to which scenes are brought, above 0: means by area on a coarser
            grid than their own, interpolated on a finer one; labels by nearest pixel, polygons as
            they are burned there. Sizes in pixels are then of that grid. None: their own.
        split: A split of the scheme by name, or a YAML file with lists ``train``, ``val`` and
            ``test`` of scene names; None: the scheme's first, unless scenes are chosen.
        val_scenes: Names or patterns of validation scenes; beside a `split` that names none they
            are taken from its training scenes.
        test_scenes: Names or patterns of test scenes, not beside `split`.
        split_blocks: Shares of train, val and test, such as ``(70, 15, 15)``: scenes are split into
            spatial blocks (`hrrsi.tiling.blocks`), not as wholes. Not beside other splits.
        block_size: Rows and columns of a block, in pixels, of which whole patches count; None: so
            many that there are about 64 blocks.
        guard: Pixels at least between patches of different blocks; None: 3/16 of `size`, as far as
            windows of `hrrsi.predict` overlap.
        seed: Another one deals out blocks otherwise.
        label_format: What labels hold; None: what the scheme says, or what `labels` shows.
        labels: One file with the labels of all scenes, polygons or a raster, instead of a label a
            scene; or several, of which the last that has a class counts. Without a scheme, their
            classes make one, by name.
        attribute: The polygons' attribute that holds the class; None: the scheme's.
        background: The class of what lies outside of all polygons: one of the scheme, or another
            name, which becomes its last class; None: the scheme's `outside`, else it is ignored.
        eroded: Whether val and test take labels with eroded class borders; train never does.
        merges: Classes to join, e.g. ``"tree+low vegetation=vegetation"``.
        aoi: Vector file of polygons; pixels outside are ignored, patches wholly outside left out.
        bands: The 1-based bands to keep, each once; None: all but alpha.
        nodata: Value of pixels without data, beside what the scenes declare; ``auto``: the one that
            collars, empty blocks and marks such as -9999 hold, if there are any.
        crs: The CRS of scenes that hold none, e.g. ``EPSG:25832``; None: that of a ``.prj`` file
            beside them, if any.
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
    resolution: float | None = None
    split: str | None = None
    val_scenes: Sequence[str] = ()
    test_scenes: Sequence[str] = ()
    split_blocks: Sequence[float] | None = None
    block_size: int | None = None
    guard: int | None = None
    seed: int = 0
    label_format: LabelFormat | None = None
    labels: str | Path | Sequence[str | Path] = ()
    attribute: str | None = None
    background: str | None = None
    eroded: bool = False
    merges: Sequence[str] = ()
    aoi: str | Path | None = None
    bands: Sequence[int] | None = None
    nodata: float | Literal["auto"] | None = None
    crs: str | None = None
    scale: float | None = None
    height: str | None = None
    unknown: UnknownLabels = "error"
    unlabelled: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.labels, str | Path):
            object.__setattr__(self, "labels", (self.labels,))
        for name in ("val_scenes", "test_scenes", "split_blocks", "labels", "merges", "bands"):
            value = getattr(self, name)
            if value is not None:  # so that options are equal, and hashed, by their values
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.nodata, str) and self.nodata != "auto":
            raise OptionError(
                f"{self.nodata!r} is no value", parameter="nodata", fix="give a number, or auto"
            )
        if self.crs is not None:
            from hrrsi.scenes.crs import crs_named  # rasterio, which --help does without

            crs_named(self.crs)
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
        if self.resolution is not None and not 0 < self.resolution < math.inf:
            raise OptionError(
                f"{self.resolution:g} is no ground resolution",
                parameter="resolution",
                fix="give metres a pixel above 0, e.g. 0.1",
            )
        self._check_blocks()
        if self.bands is not None and len(set(self.bands)) < len(self.bands):
            raise OptionError("name each band once", parameter="bands")
        if self.workers is not None and self.workers < 1:
            raise OptionError("must be 1 or more", parameter="workers")
        require_choice("label_format", self.label_format, (None, *get_args(LabelFormat)))
        require_choice("unknown", self.unknown, get_args(UnknownLabels))
        if self.scale is not None:
            from hrrsi.scenes.value_scale import check_scale  # numpy, which --help does without

            check_scale(self.scale)

    @property
    def label_files(self) -> tuple[str, ...]:
        """The files of `labels`, as texts."""
        files = (self.labels,) if isinstance(self.labels, str | Path) else self.labels
        return tuple(map(str, files))

    @property
    def effective_stride(self) -> int:
        """Pixels from one patch to the next: `stride`, or `size`."""
        return self.size if self.stride is None else self.stride

    @property
    def effective_guard(self) -> int:
        """Pixels between patches of different parts of blocks: `guard`, or 3/16 of `size`."""
        return default_overlap(self.size) if self.guard is None else self.guard

    def _check_blocks(self) -> None:
        if self.split_blocks is None:
            for name in ("block_size", "guard"):
                if getattr(self, name) is not None:
                    raise OptionError(
                        "is of blocks", parameter=name, fix="give `split_blocks=70,15,15` too"
                    )
            return
        for name in ("split", "val_scenes", "test_scenes"):
            if getattr(self, name):
                raise OptionError(
                    f"is a split already, beside `{name}`",
                    parameter="split_blocks",
                    fix="leave one of them out",
                )
        shares = self.split_blocks
        if len(shares) != 3 or not all(0 <= share <= 100 for share in shares):
            raise OptionError(
                f"is no list of three shares (train, val, test): {_listed(shares)}",
                parameter="split_blocks",
                fix="give percents such as 70,15,15",
            )
        if self.unlabelled:
            raise OptionError(
                "is by labels, so not beside `unlabelled`",
                parameter="split_blocks",
                fix="tile the scenes without labels as a dataset of their own",
            )
        total = round(sum(shares), 6)
        if total not in (1, 100):
            raise OptionError(
                f"{_listed(shares)} make {total:g}, not 100",
                parameter="split_blocks",
                fix="give the shares of train, val and test in percent, such as 70,15,15",
            )
        if not shares[0]:
            raise OptionError("leaves nothing to train on", parameter="split_blocks")
        if self.effective_guard < 0:
            raise OptionError("must be 0 or more", parameter="guard")
        if self.block_size is not None and self.block_size < self.size:
            raise OptionError(
                f"{self.block_size} px don't hold a patch of {self.size} px",
                parameter="block_size",
                fix=f"give {self.size} or more, or a smaller `size`",
            )


def _listed(shares: Sequence[float]) -> str:
    return ",".join(f"{share:g}" for share in shares)
