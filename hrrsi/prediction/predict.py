"""Maps scenes: from rasters and weights to class rasters, one after the other."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import rasterio

from hrrsi import __version__
from hrrsi.atomic_write import prepare_folder, refuse_existing
from hrrsi.device import chosen_device
from hrrsi.errors import HrrsiError
from hrrsi.networks import UED
from hrrsi.prediction.class_raster import writing_class_raster
from hrrsi.prediction.mapped_scene import MappedScene
from hrrsi.prediction.scene_files import map_paths, scene_files
from hrrsi.prediction.sliding_window import check_window, predict_rows
from hrrsi.progress import progress
from hrrsi.scenes.scene import Scene, open_raster, open_scene
from hrrsi.weights import load_model, packaged_weights

# GDAL keeps decoded blocks, by default in 5 % of the memory of the machine; rows of windows need
# those of two rows of tiles, 184 MB where a scene is 60000 px wide.
_BLOCK_CACHE = 256 * 2**20
_RESOLUTION_FACTOR = 1.5


class ScenesFailedError(HrrsiError):
    """Some of several scenes have no map; the others do.

    Attributes:
        mapped: The scenes that have their map.
        failures: Why each of the others has none.
    """

    def __init__(self, mapped: list[MappedScene], failures: dict[str, Exception]) -> None:
        self.mapped = mapped
        self.failures = failures
        names = ", ".join(failures)
        super().__init__(
            f"{len(failures)} of {len(mapped) + len(failures)} scenes failed: {names}",
            fix="see the line of each",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (ScenesFailedError, (self.mapped, self.failures))


class ResolutionWarning(UserWarning):
    """A scene's ground resolution is far from the one that the weights were trained on."""


def predict(
    inputs: str | Path | Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    window: int = 512,
    overlap: int = 64,
    batch: int = 4,
    device: str = "auto",
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    scale: float | None = None,
    overwrite: bool = False,
    preview: str | Path | None = None,
    show_progress: bool = False,
    on_mapped: Callable[[MappedScene], None] | None = None,
    on_failed: Callable[[str, Exception], None] | None = None,
) -> list[MappedScene]:
    """Map scenes: write a georeferenced class raster for each.

    Memory does not grow with the height of a scene (`sliding_window.predict_rows` says how);
    `class_raster.writing_class_raster` says what is written.

    Example:
        >>> hrrsi.predict("scene.tif", out="maps/")[0].shares  # doctest: +SKIP
        [0.13, 0.52, 0.09, 0.1, 0.16]

    Args:
        inputs: One or many rasters, patterns (``scenes/*.tif``) or folders.
        weights: A weights file; by default the weights inside the package.
        out: A ``.tif`` file for one scene, or a folder; by default the current folder, where maps
            are named ``SCENE_classes.tif``.
        window: Rows and columns of a window, in pixels.
        overlap: Pixels that neighbouring windows share, 0 to half of `window`.
        batch: Windows that the network sees at once.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        bands: The 1-based bands to read; by default all but alpha.
        nodata: A value that marks pixels without data, beside what the file declares.
        scale: The rasters' value that counts as full brightness, needed where their type differs
            from the one that the weights were trained on.
        overwrite: Whether to replace maps that exist.
        preview: A PNG of scene, map and legend, for one scene.
        show_progress: Whether to show progress in megapixels on a terminal.
        on_mapped: Called with each scene once it has its map.
        on_failed: Called with each of several scenes that fails, and why.

    Returns:
        What was mapped, in the order of the inputs.

    Raises:
        HrrsiError: An input, an output or an option is not usable.
        ScenesFailedError: Some of several scenes failed; the others have their maps.
    """
    check_window(window, overlap)
    if batch < 1:
        raise HrrsiError(f"a batch can't hold {batch} windows", fix="give a number above 0")
    preview = None if preview is None else Path(preview)
    scenes = scene_files([inputs] if isinstance(inputs, str | Path) else inputs)
    if not scenes:
        raise HrrsiError("no scenes are named", fix="name rasters, folders or patterns")
    paths = map_paths(scenes, out)
    if len(scenes) == 1:
        with open_raster(scenes[0]):  # a wrong name should neither wait nor make folders
            pass
    _check_outputs(paths, preview, overwrite=overwrite)
    weights_file = packaged_weights() if weights is None else Path(weights)
    mapper = _Mapper(
        network=load_model(weights_file),
        weights=weights_file,
        window=window,
        overlap=overlap,
        batch=batch,
        device=chosen_device(device),
        bands=bands,
        nodata=nodata,
        scale=scale,
        show_progress=show_progress,
    )
    mapped: list[MappedScene] = []
    failures: dict[str, Exception] = {}
    with _block_cache():
        for name, path in zip(scenes, paths, strict=True):
            try:
                scene = mapper.map(name, path)
                if preview is not None:
                    from hrrsi.prediction.preview import (
                        write_preview,  # fonts and pictures, seldom asked for
                    )

                    write_preview(scene, preview, bands=bands)
            except (HrrsiError, OSError) as error:
                if len(scenes) == 1:
                    raise
                failures[name] = error
                if on_failed:
                    on_failed(name, error)
                continue
            mapped.append(scene)
            if on_mapped:
                on_mapped(scene)
    if failures:
        raise ScenesFailedError(mapped, failures)
    return mapped


class _Mapper:
    """Maps one scene after the other with the same network and options."""

    def __init__(
        self,
        *,
        network: UED,
        weights: Path,
        window: int,
        overlap: int,
        batch: int,
        device: str,
        bands: Sequence[int] | None,
        nodata: float | None,
        scale: float | None,
        show_progress: bool,
    ) -> None:
        self._network = network
        self._window = window
        self._overlap = overlap
        self._batch = batch
        self._device = device
        self._bands = bands
        self._nodata = nodata
        self._scale = scale
        self._show_progress = show_progress
        self._warned = False
        options = {
            "window": window,
            "overlap": overlap,
            "bands": None if bands is None else list(bands),
            "nodata": nodata,
            "scale": scale,
        }
        self._provenance = {
            "VERSION": __version__,
            "MODEL": network.meta["model"],
            "WEIGHTS": weights.name,
            "WEIGHTS_SHA256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "OPTIONS": json.dumps({k: v for k, v in options.items() if v is not None}),
        }

    def map(self, name: str, path: Path) -> MappedScene:
        """Write the map of a scene.

        Raises:
            HrrsiError: The scene can't be read, or its map can't be written.
        """
        start = time.perf_counter()
        meta = self._network.meta
        with open_scene(
            name, bands=self._bands, expected_bands=len(meta["mean"]), nodata=self._nodata
        ) as scene:
            self._compare_resolution(scene)
            megapixels = scene.height * scene.width / 1e6
            with progress(
                Path(name).name, megapixels, " Mpx", scale=True, enabled=self._show_progress
            ) as bar:
                strips = predict_rows(
                    scene,
                    self._network,
                    window=self._window,
                    overlap=self._overlap,
                    batch=self._batch,
                    device=self._device,
                    scale=self._scale,
                    on_pixels=lambda pixels: bar.update(pixels / 1e6),
                )
                with (
                    closing(strips),
                    writing_class_raster(
                        path,
                        scene.dataset,
                        classes=meta["classes"],
                        colours=meta["colours"],
                        has_nodata=scene.declares_nodata,
                        provenance=self._provenance,
                    ) as writer,
                ):
                    for first_row, labels in strips:
                        writer.write(first_row, labels)
            resolution = scene.resolution
            return MappedScene(
                scene=name,
                path=path,
                height=scene.height,
                width=scene.width,
                classes=list(meta["classes"]),
                colours=[tuple(colour) for colour in meta["colours"]],
                class_pixels=writer.class_pixels,
                nodata_pixels=writer.nodata_pixels,
                pixel_area=None if resolution is None else resolution**2,
                seconds=time.perf_counter() - start,
            )

    def _compare_resolution(self, scene: Scene) -> None:
        """Warn, for the first such scene, where the ground resolution is far from the weights'."""
        trained_on, there = self._network.meta["resolution"], scene.resolution
        if self._warned or trained_on is None or there is None:
            return
        if max(trained_on / there, there / trained_on) > _RESOLUTION_FACTOR:
            self._warned = True
            warnings.warn(
                f"{scene.path}: has {there * 100:.3g} cm a pixel where the weights were trained "
                f"on {trained_on * 100:.3g} cm; expect worse maps, or resample the scene",
                ResolutionWarning,
                stacklevel=2,
            )


def _check_outputs(paths: Sequence[Path], preview: Path | None, *, overwrite: bool) -> None:
    """Raise before any work where an output can't be written.

    Raises:
        HrrsiError: An output exists, a folder is not writable, or there is a preview for several
            scenes.
    """
    if preview is not None and len(paths) > 1:
        raise HrrsiError(
            f"one preview for {len(paths)} scenes", where=preview, fix="name one scene"
        )
    if preview is not None and preview.suffix.lower() != ".png":
        raise HrrsiError("a preview is a PNG", where=preview, fix="let its name end in .png")
    outputs = [
        output
        for path in paths
        for output in (path, path.with_suffix(".qml"), path.with_name(path.name + ".aux.xml"))
    ]
    for path in [*outputs, *([preview] if preview else [])]:
        if path.is_dir():
            raise HrrsiError("is a folder", where=path, fix="name a file")
        refuse_existing(path, overwrite=overwrite)
        prepare_folder(path.parent)


@contextmanager
def _block_cache() -> Iterator[None]:
    """Bound GDAL's cache of decoded blocks, unless the environment says how large it is."""
    options = {} if "GDAL_CACHEMAX" in os.environ else {"GDAL_CACHEMAX": _BLOCK_CACHE}
    with rasterio.Env(**options):
        yield
