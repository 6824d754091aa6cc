"""Maps scenes: from rasters and weights to class rasters and what is made from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hrrsi.errors import HrrsiError
from hrrsi.files import prepare_folder
from hrrsi.maps.outputs import Outputs, check_outputs, scene_outputs
from hrrsi.maps.score_rasters import ScoreType
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.engines.opening import open_engine
from hrrsi.prediction.mapped_scene import MappedScene, PlannedScene, planned_scene, seconds_a_window
from hrrsi.prediction.options import MapOptions
from hrrsi.prediction.scene_files import map_paths, scene_files
from hrrsi.prediction.scene_mapper import SceneMapper
from hrrsi.prediction.sliding_window import checked_overlap
from hrrsi.prediction.symmetries import symmetries
from hrrsi.scenes.height_files import height_files
from hrrsi.scenes.raster_opening import bounded_block_cache, is_local, open_raster
from hrrsi.scenes.value_scale import check_scale
from hrrsi.scenes.windows import DEFAULT_WINDOW


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


def predict(
    inputs: str | Path | Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    window: int = DEFAULT_WINDOW,
    overlap: int | None = None,
    augmentation: str = "none",
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    scale: float | None = None,
    height: str | Path | None = None,
    aoi: str | Path | None = None,
    resample: bool = False,
    min_area: float | None = None,
    confidence: ScoreType | None = None,
    probabilities: ScoreType | None = None,
    vector: str | Path | None = None,
    zones: str | Path | None = None,
    zone_name: str | None = None,
    preview: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    show_progress: bool = False,
    on_mapped: Callable[[MappedScene], None] | None = None,
    on_failed: Callable[[str, Exception], None] | None = None,
) -> list[MappedScene]:
    """Map scenes: write a georeferenced class raster for each, and what else is asked for.

    Memory does not grow with the height of a scene (`sliding_window.predict_strips` says how);
    `hrrsi.maps.class_raster.write_class_raster` says what is written. Whatever stops a run,
    it leaves a hidden folder beside the map, from which `resume` goes on.

    Example:
        >>> hrrsi.predict("scene.tif", out="maps/")[0].shares  # doctest: +SKIP
        [0.13, 0.52, 0.09, 0.1, 0.16]

    Args:
        inputs: One or many rasters, patterns (``scenes/*.tif``) or folders.
        weights: A weights file; by default the weights inside the package.
        out: A ``.tif`` file for one scene, or a folder; by default the current folder, where maps
            are named ``SCENE_classes.tif``.
        window: Rows and columns of a window, in pixels.
        overlap: Pixels that neighbouring windows share, 0 to half of `window`; by default 3/16.
        augmentation: Test-time augmentation: ``none``, ``flip`` or ``d4``.
        engine: ``auto``, ``openvino``, ``onnxruntime`` or ``torch``
            (`engines.engine.open_engine` says which is which).
        precision: ``auto``, ``32``, ``bf16``, ``16`` or ``fast``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Processor threads; by default one a core.
        batch: Windows in one step of the network; by default the engine's choice.
        bands: The 1-based bands to read; by default those that the weights were trained on, which
            may be all but alpha (`hrrsi.scenes.bands.chosen_bands` says when).
        nodata: A value that marks pixels without data, beside what the file declares.
        scale: The rasters' value that counts as full brightness; by default what they declare,
            else the weights' own, or an estimate where their type differs from the one that the
            weights were trained on. All but the weights' own comes with a warning.
        height: The scenes' height models, for weights that see one as their last band: a raster
            for all, a folder, or a template (`hrrsi.scenes.height_files.height_files`).
        aoi: A file of polygons: what lies outside them has no class.
        resample: Read scenes at the ground resolution that the weights were trained on; maps are
            on the scenes' own grids all the same.
        min_area: Components smaller than this, in square metres (pixels for scenes without CRS),
            are merged into their neighbours.
        confidence: Also write the probability of each pixel's class, in this type.
        probabilities: Also write the probability of every class, in this type.
        vector: Also write polygons: a file for one scene, or ``gpkg``, ``geojson`` or ``fgb``.
        zones: A file of polygons: also write the area of each class in each of them, as CSV.
        zone_name: The attribute that names zones.
        preview: Also write a PNG of scene, map and legend: a file for one scene, or ``png``.
        overwrite: Whether to replace files that exist.
        resume: Go on where an earlier run with the same options was stopped; scenes that it
            finished stay as they are.
        show_progress: Whether to show progress in megapixels on a terminal.
        on_mapped: Called with each scene once it has its map.
        on_failed: Called with each of several scenes that fails, and why.

    Returns:
        What was mapped, in the order of the inputs.

    Raises:
        HrrsiError: An input, an output or an option is not usable.
        ScenesFailedError: Some of several scenes failed; the others have their maps.
        KeyboardInterrupt: Interrupted; says how to go on.
    """
    options = _options(
        window=window,
        overlap=overlap,
        augmentation=augmentation,
        bands=bands,
        nodata=nodata,
        scale=scale,
        height=height,
        aoi=aoi,
        resample=resample,
        min_area=min_area,
        confidence=confidence,
        probabilities=probabilities,
        zones=zones,
        zone_name=zone_name,
    )
    scenes, outputs = _scenes_and_outputs(
        inputs, out, options, vector, preview, overwrite=overwrite, resume=resume
    )
    for path in {file.parent for one in outputs for file in one.files}:
        prepare_folder(path)
    weights_path = packaged_weights() if weights is None else Path(weights)
    mapper = SceneMapper(
        open_engine(
            weights_path,
            engine=engine,
            precision=precision,
            device=device,
            threads=threads,
            batch=batch,
        ),
        weights_path,
        options,
        show_progress=show_progress,
    )
    mapped: list[MappedScene] = []
    failures: dict[str, Exception] = {}
    with bounded_block_cache():
        for name, files in zip(scenes, outputs, strict=True):
            try:
                scene = mapper.map(name, files, resume=resume)
            except MemoryError:
                raise  # the next scene would meet it too
            except Exception as error:  # one bad scene must not stop the others, whatever it is
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


def plan(
    inputs: str | Path | Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    window: int = DEFAULT_WINDOW,
    overlap: int | None = None,
    augmentation: str = "none",
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    scale: float | None = None,
    height: str | Path | None = None,
    aoi: str | Path | None = None,
    resample: bool = False,
    min_area: float | None = None,
    confidence: ScoreType | None = None,
    probabilities: ScoreType | None = None,
    vector: str | Path | None = None,
    zones: str | Path | None = None,
    zone_name: str | None = None,
    preview: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> list[PlannedScene]:
    """Return what `predict` would do with the same arguments, writing nothing.

    The time is estimated from a few windows of noise on this machine.

    Returns:
        A plan for each scene; one that can't be opened says why.

    Raises:
        HrrsiError: An option is not usable.
    """
    options = _options(
        window=window,
        overlap=overlap,
        augmentation=augmentation,
        bands=bands,
        nodata=nodata,
        scale=scale,
        height=height,
        aoi=aoi,
        resample=resample,
        min_area=min_area,
        confidence=confidence,
        probabilities=probabilities,
        zones=zones,
        zone_name=zone_name,
    )
    scenes, outputs = _scenes_and_outputs(
        inputs, out, options, vector, preview, overwrite=overwrite, resume=resume
    )
    weights_path = packaged_weights() if weights is None else Path(weights)
    runner: Engine = open_engine(
        weights_path,
        engine=engine,
        precision=precision,
        device=device,
        threads=threads,
        batch=batch,
    )
    mapper = SceneMapper(runner, weights_path, options, show_progress=False)
    seconds = seconds_a_window(runner, window) * len(symmetries(augmentation))
    plans = []
    for name, files in zip(scenes, outputs, strict=True):
        try:
            with mapper.open(name) as scene:
                plans.append(planned_scene(scene, files, options, runner, seconds))
        except HrrsiError as error:
            plans.append(PlannedScene(name, files, problem=str(error)))
    return plans


def _options(
    *,
    window: int,
    overlap: int | None,
    bands: Sequence[int] | None,
    height: str | Path | None,
    aoi: str | Path | None,
    zones: str | Path | None,
    **as_they_are: Any,
) -> MapOptions:
    """Return the options of a run, checked as far as no scene is needed for it.

    Raises:
        HrrsiError: One is not usable.
    """
    options = MapOptions(
        window=window,
        overlap=checked_overlap(window, overlap),
        bands=None if bands is None else tuple(bands),
        height=None if height is None else str(height),
        aoi=None if aoi is None else Path(aoi),
        zones=None if zones is None else Path(zones),
        **as_they_are,
    )
    symmetries(options.augmentation)
    if options.min_area is not None and not 0 <= options.min_area < float("inf"):
        raise HrrsiError(
            f"{options.min_area:g} is no area", where="--min-area", fix="give 0 or more"
        )
    check_scale(options.scale)
    if options.zone_name is not None and options.zones is None:
        raise HrrsiError("names zones, and there are none", where="--zone-name", fix="give --zones")
    for path in (options.aoi, options.zones):
        if path is not None and is_local(str(path)) and not path.exists():
            raise HrrsiError("no such file", where=path, fix="check the path")
    return options


def _scenes_and_outputs(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path | None,
    options: MapOptions,
    vector: str | Path | None,
    preview: str | Path | None,
    *,
    overwrite: bool,
    resume: bool,
) -> tuple[list[str], list[Outputs]]:
    """Return the scenes, with the files that each gets.

    Raises:
        HrrsiError: There are none, one is missing, or outputs collide or exist.
    """
    if resume and overwrite:
        raise HrrsiError("--resume keeps what --overwrite replaces", fix="give one of them")
    scenes = scene_files([inputs] if isinstance(inputs, str | Path) else inputs)
    heights = None if options.height is None else height_files(options.height)
    if heights is not None:
        beside = {Path(path).resolve() for path in heights.paths}
        scenes = [s for s in scenes if Path(s).resolve() not in beside] or scenes
        heights.require_own([(scene, None) for scene in scenes])
    if not scenes:
        raise HrrsiError("no scenes are named", fix="name rasters, folders or patterns")
    outputs = scene_outputs(
        map_paths(scenes, out),
        confidence=options.confidence is not None,
        probabilities=options.probabilities is not None,
        vector=vector,
        zones=options.zones is not None,
        preview=preview,
    )
    if len(scenes) == 1:
        with open_raster(scenes[0]):  # a wrong name should neither wait nor make folders
            pass
    read = [Path(s) for s in scenes if is_local(s)]
    polygons = [path for path in (options.aoi, options.zones) if path is not None]
    models = [Path(path) for path in ([] if heights is None else heights.paths)]
    check_outputs(outputs, [*read, *polygons, *models], overwrite=overwrite, resume=resume)
    return scenes, outputs
