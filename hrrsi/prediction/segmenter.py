"""Arrays in, arrays out: for notebooks, and for the frames of a camera."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from hrrsi.class_styles import legend_html
from hrrsi.classes import class_palette
from hrrsi.errors import InputError
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.data_arrays import DataArrayT, ImageArray, image_array, is_data_array
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import Augmentation, EngineOptions, MapOptions, Resample
from hrrsi.prediction.reading_resolution import ReadingResolution
from hrrsi.prediction.scene_remarks import SceneRemarks
from hrrsi.prediction.sliding_window import predict_strips
from hrrsi.scenes.resampling import OWN_STEPS, Steps, required_step, steps_to
from hrrsi.scenes.window_source import ArrayWindows


class Segmenter:
    """Maps arrays with a network that is made ready once, one after the other.

    Examples:
        >>> segmenter = hrrsi.Segmenter()  # doctest: +SKIP
        >>> labels = segmenter(frame)  # (H, W, 3) uint8 -> (H, W) uint8
        >>> segmenter.classes[labels[0, 0]]
        'Water'
        >>> scene = rioxarray.open_rasterio("scene.tif")  # xarray in, xarray out
        >>> segmenter(scene).rio.to_raster("map.tif")

    Args:
        weights: A weights file, or the name of weights inside the package: ``default``, which it
            is by default, or ``light``.
        window: Rows and columns of a window, in pixels; larger arrays take several. By default
            512, or those that an exported network takes.
        overlap: Pixels that neighbouring windows share, 0 to half of `window`; by default
            3/16 of it, or what an exported network says.
        augmentation: Test-time augmentation: ``none``, ``flip`` or ``d4``.
        resample: The ground resolution at which arrays are read whose own one is said, in metres
            per pixel; ``auto``: their own, or the nearest of those that the weights were trained
            on, with a `ResolutionNotice` the first time; ``off``: their own.
        engine: What runs the network.

    Attributes:
        meta: What the weights say of themselves.

    Raises:
        HrrsiError: The weights can't be read, or an option is not usable.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        window: int | None = None,
        overlap: int | None = None,
        augmentation: Augmentation = "none",
        resample: Resample = "auto",
        engine: EngineOptions = EngineOptions(),
    ) -> None:
        options = MapOptions(
            window=window, overlap=overlap, augmentation=augmentation, resample=resample
        )
        self._engine = open_engine(weights, engine)
        self._options = options.fitting(self._engine.meta)
        self.meta: ModelMeta = self._engine.meta
        self._reading = ReadingResolution(self.meta, resample, SceneRemarks())

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their indices."""
        return self.meta.classes

    @property
    def palette(self) -> npt.NDArray[np.uint8]:
        """(256, 3) colours: ``palette[labels]`` is a picture; what is no class is black."""
        return class_palette(self.meta.colours)

    def __repr__(self) -> str:
        """Return weights, classes and engine in a line."""
        options = f"windows of {self._options.effective_window} px, {self._engine.name}"
        return f"<Segmenter: {self.meta.network_text}; {', '.join(self.classes)}; {options}>"

    def _repr_html_(self) -> str:
        """Return the same with the classes' colours, for notebooks."""
        legend = legend_html(self.classes, self.meta.colours)
        return f"<p>{escape(repr(self))}</p>{legend}"

    @overload
    def __call__(
        self,
        image: DataArrayT,
        *,
        valid: npt.ArrayLike | None = None,
        scale: float | None = None,
        resolution: float | None = None,
    ) -> DataArrayT: ...
    @overload
    def __call__(
        self,
        image: npt.ArrayLike,
        *,
        valid: npt.ArrayLike | None = None,
        scale: float | None = None,
        resolution: float | None = None,
        bands_first: bool = False,
    ) -> npt.NDArray[np.uint8]: ...
    def __call__(
        self,
        image: object,
        *,
        valid: npt.ArrayLike | None = None,
        scale: float | None = None,
        resolution: float | None = None,
        bands_first: bool = False,
    ) -> object:
        """Return the labels of an image.

        Args:
            image: (height, width, bands) in the type and band order of the weights' scenes;
                where they see heights, these come last, as float32 with the other bands' values.
                Or an array of xarray with bands, x and y in any order, whose missing data and
                ground resolution are known (`hrrsi.prediction.data_arrays.image_array`).
            valid: (height, width), true where pixels hold data; by default those that no band
                masks, and of floats those that are finite.
            scale: The value that counts as full brightness, where it is not the weights'.
            resolution: Metres per pixel, where they are known; else it is read as it is.
            bands_first: Whether the image is (bands, height, width), as rasterio reads it.

        Returns:
            (height, width) uint8 class indices, 255 where there is no data; of an array of xarray
            one with its place.

        Raises:
            InputError: The image does not have the weights' bands, its type needs `scale`, or its
                pixels are far too coarse for the resolution at which it should be read.
        """
        labels, _, array = self._mapped(
            image, valid, scale, resolution, bands_first, probabilities=False
        )
        return labels if array is None else array.labelled(labels, self.classes)

    @overload
    def probabilities(
        self,
        image: DataArrayT,
        *,
        valid: npt.ArrayLike | None = None,
        scale: float | None = None,
        resolution: float | None = None,
    ) -> DataArrayT: ...
    @overload
    def probabilities(
        self,
        image: npt.ArrayLike,
        *,
        valid: npt.ArrayLike | None = None,
        scale: float | None = None,
        resolution: float | None = None,
        bands_first: bool = False,
    ) -> npt.NDArray[np.float32]: ...
    def probabilities(
        self,
        image: object,
        *,
        valid: npt.ArrayLike | None = None,
        scale: float | None = None,
        resolution: float | None = None,
        bands_first: bool = False,
    ) -> object:
        """Return the class probabilities of an image.

        Args:
            image: As for a call.
            valid: Likewise.
            scale: Likewise.
            resolution: Likewise.
            bands_first: Likewise.

        Returns:
            (classes, height, width) float32 in [0, 1], NaN where there is no data; of an array of
            xarray one with its place.

        Raises:
            InputError: As a call.
        """
        _, probabilities, array = self._mapped(
            image, valid, scale, resolution, bands_first, probabilities=True
        )
        assert probabilities is not None
        return probabilities if array is None else array.scored(probabilities, self.classes)

    def _mapped(
        self,
        image: Any,
        valid: npt.ArrayLike | None,
        scale: float | None,
        resolution: float | None,
        bands_first: bool,
        *,
        probabilities: bool,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None, ImageArray | None]:
        array = image_array(image) if is_data_array(image) else None
        sides = None
        if array is not None:
            image, bands_first = array.pixels, True
            valid = array.valid if valid is None else valid
            if resolution is None:
                resolution, sides = array.resolution, array.sides
        pixels = np.asarray(image)
        bands = self.meta.band_count
        order = "(bands, height, width)" if bands_first else "(height, width, bands)"
        if pixels.ndim != 3 or pixels.shape[0 if bands_first else 2] != bands or not pixels.size:
            raise InputError(
                f"an image of shape {pixels.shape} is not {order} with {bands} bands",
                fix="change its order, or give bands_first",
            )
        if pixels.dtype.kind not in "biuf":
            raise InputError(f"an image of type {pixels.dtype} is no image", fix="give real values")
        if valid is None and isinstance(image, np.ma.MaskedArray):
            masked = np.broadcast_to(image.mask, image.shape)  # one value stands for all
            valid = ~masked.any(axis=0 if bands_first else 2)
        if not bands_first:
            pixels = np.moveaxis(pixels, 2, 0)
        has_data = None if valid is None else np.asarray(valid, dtype=bool)
        if has_data is not None and has_data.shape != pixels.shape[1:]:
            raise InputError(
                f"valid has shape {has_data.shape} for an image of {pixels.shape[1:]} px",
                fix="give a (height, width) array",
            )
        if self.meta.height and scale is None and pixels.dtype.kind == "f":
            scale = self.meta.scale  # the other bands became floats beside the heights
        source = ArrayWindows(pixels, has_data, self.meta.height, self._steps(resolution, sides))
        strips = predict_strips(
            source,
            self._engine,
            replace(self._options, scale=scale),
            probabilities="float32" if probabilities else None,
        )
        labels = np.empty(source.raster_grid, dtype=np.uint8)
        shape = (len(self.classes), *labels.shape)
        scores = np.empty(shape, dtype=np.float32) if probabilities else None
        with closing(strips):
            for strip in strips:
                rows = slice(strip.first_row, strip.first_row + len(strip.labels))
                labels[rows] = strip.labels
                if scores is not None and strip.probabilities is not None:
                    scores[:, rows] = strip.probabilities
        return labels, scores, array

    def _steps(self, own: float | None, sides: tuple[float, float] | None) -> Steps:
        """Return how many of an array's pixels one is that the network sees, down and across."""
        if own is None:
            return OWN_STEPS
        reading = self._reading.of_pixels("array", own, sides)
        if reading is None:
            return OWN_STEPS
        step = required_step(own, reading, "array")
        return steps_to(sides, reading) or (step, step)
