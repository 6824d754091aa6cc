"""What a caller decides about maps: how scenes are mapped, what computes, what is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from hrrsi.classes import ScoreType
from hrrsi.errors import OptionError
from hrrsi.scenes.windows import DEFAULT_WINDOW, LARGEST_WINDOW, default_overlap

if TYPE_CHECKING:
    from hrrsi.networks.model_meta import ModelMeta

Augmentation = Literal["none", "flip", "d4"]

ENGINES = ("auto", "openvino", "onnxruntime", "torch")
PRECISIONS = ("auto", "32", "bf16", "16", "fast")
Resample = float | Literal["auto", "off"]
SMALLEST_WINDOW = 1  # networks of other programs may take any
SMALLEST_BATCH = 1


@dataclass(frozen=True)
class MapOptions:
    """How scenes are read and mapped.

    Attributes:
        bands: The 1-based bands to read; None: those that the weights were trained on, which may
            be all but alpha (`hrrsi.scenes.bands.chosen_bands` says when).
        nodata: A value that marks pixels without data, beside what the file declares; ``auto``: the
            one that collars, empty blocks and marks such as -9999 hold, if there are any.
        crs: The CRS of scenes that hold none, e.g. ``EPSG:25832``; None: that of a ``.prj`` file
            beside them, if any.
        scale: The rasters' value that counts as full brightness, above 0; None: what they declare,
            else the weights' own, or an estimate where their type differs from the one that the
            weights were trained on. All but the weights' own comes with a warning.
        height: The scenes' height models, for weights that see one as their last band: a raster
            for all, a folder, or a template (`hrrsi.scenes.height_files.height_files`).
        aoi: A file of polygons: what lies outside them has no class.
        mosaic: Whether the rasters are tiles of one scene, mapped with what lies beyond their
            borders (`hrrsi.scenes.mosaic.tile_mosaic` says what tiles must have in common).
        crop: Whether maps are as large as the area of interest, instead of as their scenes.
        resample: The ground resolution that scenes are read at, in metres per pixel; maps are on
            the scenes' own grids all the same. ``auto``: a scene's own, or the nearest of those
            that the weights were trained on where it lies outside of them; pixels that are no
            squares on the ground (degrees) as squares of the same area. ``off``: its own.
        window: Rows and columns of a window, in pixels, 1 to 4096; None: 512, or those that an
            exported network takes.
        overlap: Pixels that neighbouring windows share, 0 to half of `window`; None: 3/16 of it,
            or what an exported network says.
        augmentation: Test-time augmentation: ``none``, ``flip`` (each window also mirrored) or
            ``d4`` (in all eight orientations); the mean of the logits counts.
        min_area: Components smaller than this, in square metres (pixels for scenes without CRS),
            are merged into their neighbours; 0 or more.

    Raises:
        OptionError: One is not usable, or two don't go together.
    """

    bands: Sequence[int] | None = None
    nodata: float | Literal["auto"] | None = None
    crs: str | None = None
    scale: float | None = None
    height: str | Path | None = None
    aoi: str | Path | None = None
    mosaic: bool = False
    crop: bool = False
    resample: Resample = "auto"
    window: int | None = None
    overlap: int | None = None
    augmentation: Augmentation = "none"
    min_area: float | None = None

    def __post_init__(self) -> None:
        if self.bands is not None:  # so that options are equal, and hashed, by their values
            object.__setattr__(self, "bands", tuple(self.bands))
        if isinstance(self.nodata, str) and self.nodata != "auto":
            raise OptionError(
                f"{self.nodata!r} is no value", parameter="nodata", fix="give a number, or auto"
            )
        if self.crop and self.aoi is None:
            raise OptionError(
                "there is no area of interest", parameter="crop", fix="name one with `aoi`"
            )
        if self.effective_window > LARGEST_WINDOW:
            raise OptionError(
                f"windows of {self.window} px take more memory than machines have",
                fix=f"choose `window` up to {LARGEST_WINDOW}",
            )
        window = self.effective_window
        if window < SMALLEST_WINDOW or not 0 <= 2 * self.effective_overlap <= window:
            raise OptionError(
                f"an overlap of {self.effective_overlap} px does not fit windows of {window} px",
                fix="choose `overlap` from 0 to half of `window`",
            )
        if self.resample not in ("auto", "off") and not (
            type(self.resample) in (int, float) and 0 < float(self.resample) < math.inf
        ):
            raise OptionError(
                f"{self.resample!r} is no ground resolution",
                parameter="resample",
                fix="give metres per pixel, `resample=auto` or `resample=off`",
            )
        if self.augmentation not in get_args(Augmentation):
            raise OptionError(
                f"unknown test-time augmentation {self.augmentation!r}",
                fix=f"choose from {', '.join(get_args(Augmentation))}",
            )
        if self.min_area is not None and not 0 <= self.min_area < math.inf:
            raise OptionError(
                f"{self.min_area:g} is no area", parameter="min_area", fix="give 0 or more"
            )
        if self.crs is not None:
            from hrrsi.scenes.crs import crs_named  # rasterio, which --help does without

            crs_named(self.crs)
        if self.scale is not None:
            from hrrsi.scenes.value_scale import check_scale  # numpy, likewise

            check_scale(self.scale)

    @property
    def effective_window(self) -> int:
        """Rows and columns of a window: `window`, or the default."""
        return DEFAULT_WINDOW if self.window is None else self.window

    @property
    def effective_overlap(self) -> int:
        """Pixels that neighbouring windows share: `overlap`, or the default for the window."""
        return default_overlap(self.effective_window) if self.overlap is None else self.overlap

    def fitting(self, meta: ModelMeta) -> MapOptions:
        """Return these options with the windows of weights that take no others.

        Args:
            meta: What the weights say of themselves.

        Raises:
            OptionError: They take other windows than `window`.
        """
        if meta.window is None:
            return self
        if self.window not in (None, meta.window):
            raise OptionError(
                f"{self.window} px, and the exported network takes windows of {meta.window} px",
                parameter="window",
                fix="leave it out, or export the network again with that `window`",
            )
        overlap = meta.overlap if self.overlap is None else self.overlap
        return replace(self, window=meta.window, overlap=overlap)


@dataclass(frozen=True)
class EngineOptions:
    """What runs the network.

    Attributes:
        engine: ``auto``, ``openvino``, ``onnxruntime`` or ``torch``; ``auto`` is OpenVINO on a
            processor, and PyTorch on a GPU and for networks on other encoders than GhostNet and
            EfficientNet-Lite.
        precision: ``auto``, ``32`` (single), ``bf16``, ``16`` (half) or ``fast``; ``auto`` is
            ``bf16`` where the hardware calculates in it (PyTorch: on a GPU only), else ``32``.
            ``bf16`` keeps in single precision what rounding harms most, ``fast`` does not.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes a GPU if there is one.
        threads: Processor threads, 1 or more; None: one a core.
        batch: Windows in one step of the network, 1 or more; None: 1 on a processor, 8 on a GPU.
            In bf16, a processor with AMX gives up to a thousandth of the pixels another label
            where it is above 1.

    Raises:
        OptionError: One is not usable.
    """

    engine: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise OptionError(
                f"unknown engine {self.engine!r}", fix=f"choose from {', '.join(ENGINES)}"
            )
        if self.precision not in PRECISIONS:
            raise OptionError(
                f"unknown precision {self.precision!r}", fix=f"choose from {', '.join(PRECISIONS)}"
            )
        if self.batch is not None and self.batch < SMALLEST_BATCH:
            raise OptionError(
                f"a batch can't hold {self.batch} windows", fix="give a number above 0"
            )
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"{self.threads} threads can't compute", fix="give a number above 0")
        if self.engine in ("openvino", "onnxruntime") and self.device not in ("auto", "cpu"):
            raise OptionError(
                f"{self.engine} runs on the CPU here", fix="give `engine=torch` for a GPU"
            )


@dataclass(frozen=True)
class OutputOptions:
    """What is written beside the class map of each scene, and what may be there already.

    Attributes:
        confidence: Also write the probability of each pixel's class, before `min_area` merges
            any, in this type.
        probabilities: Also write the probability of every class, in this type.
        vector: Also write polygons: a file for one scene; or ``gpkg``, ``geojson``, ``fgb`` or
            ``shp`` for one beside each map.
        vector_classes: Names of the classes that polygons are written of; None: all.
        simplify: Size of the steps along pixels that polygons leave out, in metres on the ground
            (pixels for scenes without CRS), 0 or more; borders stay shared. None: none.
        zones: A file of polygons: also write the area of each class in each of them, as CSV, and a
            copy of the polygons with a column for each class, as GeoPackage.
        zone_name: The attribute that names zones.
        preview: Also write a sheet of scene, map, legend, scale and north as PNG or PDF: a file
            for one scene; or ``png`` or ``pdf`` for one beside each map.
        tiles: Whether a mosaic gets a map for each of its tiles, on the tile's grid and under its
            name, instead of one: windows of that one map. Polygons end at the tiles' borders, and
            zones are counted tile by tile.
        overwrite: Whether to replace files that exist.
        resume: Go on where an earlier run with the same options was stopped; scenes that it
            finished stay as they are.

    Raises:
        OptionError: Two don't go together.
    """

    confidence: ScoreType | None = None
    probabilities: ScoreType | None = None
    vector: str | Path | None = None
    vector_classes: Sequence[str] | None = None
    simplify: float | None = None
    zones: str | Path | None = None
    zone_name: str | None = None
    preview: str | Path | None = None
    tiles: bool = False
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.vector_classes is not None:  # so that options are equal by their values
            object.__setattr__(self, "vector_classes", tuple(self.vector_classes))
        for name in ("vector_classes", "simplify"):
            if getattr(self, name) is not None and self.vector is None:
                raise OptionError(
                    "is of polygons, and none are written", parameter=name, fix="give `vector`"
                )
        if self.simplify is not None and not 0 <= self.simplify < math.inf:
            raise OptionError(
                f"{self.simplify:g} is no length", parameter="simplify", fix="give 0 or more"
            )
        if self.resume and self.overwrite:
            raise OptionError("`resume` keeps what `overwrite` replaces", fix="give one of them")
        if self.zone_name is not None and self.zones is None:
            raise OptionError(
                "names zones, and there are none", parameter="zone_name", fix="give `zones`"
            )

    @property
    def of_polygons(self) -> str:
        """What polygons differ by from those of the map as it is, in words for a record."""
        return ", ".join(
            [
                *([f"classes {','.join(self.vector_classes)}"] if self.vector_classes else []),
                *([f"simplified by {self.simplify:g}"] if self.simplify else []),
            ]
        )
