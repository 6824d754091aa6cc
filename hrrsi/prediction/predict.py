"""Maps scenes: from rasters and weights to class rasters and what is made from them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hrrsi.errors import HrrsiError, MissingInputError, OptionError
from hrrsi.files import named_layer, prepare_folder, scratch_folder
from hrrsi.interruption import heeding_signals
from hrrsi.maps.outputs import (
    Outputs,
    TileOutputs,
    check_outputs,
    map_paths,
    scene_outputs,
)
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import weights_path
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.map_writer import run_provenance
from hrrsi.prediction.mapped_scene import (
    MappedScene,
    PlannedScene,
    planned_scene,
    scene_files,
    seconds_a_window,
)
from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions
from hrrsi.prediction.scene_checks import SceneNotice
from hrrsi.prediction.scene_mapper import SceneMapper
from hrrsi.prediction.sliding_window import symmetries
from hrrsi.scenes.height_files import height_files
from hrrsi.scenes.raster_opening import bounded_block_cache, is_local, many_files, open_raster

if TYPE_CHECKING:
    from hrrsi.scenes.mosaic import Mosaic


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


@heeding_signals()
def predict(
    scenes: str | Path | Sequence[str | Path],
    weights: str | Path | None = None,
    out: str | Path | None = None,
    options: MapOptions = MapOptions(),
    engine: EngineOptions = EngineOptions(),
    outputs: OutputOptions = OutputOptions(),
    *,
    show_progress: bool = False,
    on_ready: Callable[[ModelMeta], None] | None = None,
    on_mapped: Callable[[MappedScene], None] | None = None,
    on_failed: Callable[[str, Exception], None] | None = None,
) -> list[MappedScene]:
    """Map scenes in this process. `hrrsi.predict`, which can give them to a cluster, says more.

    Memory does not grow with the height of a scene (`sliding_window.predict_strips` says how);
    `hrrsi.maps.rasters.write_class_raster` says what is written.

    Args:
        scenes: One or many rasters, patterns (``scenes/*.tif``) or folders.
        weights: A weights file, or the name of weights inside the package: ``default``, which it
            is by default, or ``light``.
        out: A ``.tif`` file for one scene, or a folder; by default the current folder, where maps
            are named ``SCENE_classes.tif``.
        options: How scenes are read and mapped.
        engine: What runs the network.
        outputs: What is written beside the class maps, and what may be there already.
        show_progress: Whether to show progress in megapixels on a terminal.
        on_ready: Called with what the weights say of themselves before the first scene is mapped.
        on_mapped: Called with each scene once it has its map.
        on_failed: Called with each of several scenes that fails, and why.

    Returns:
        What was mapped, in the order of the scenes; with ``OutputOptions(tiles=True)`` each tile.

    Raises:
        HrrsiError: A scene, an output or an option is not usable.
        ScenesFailedError: Some of several scenes failed; the others have their maps.
        KeyboardInterrupt: Interrupted; says how to go on.
    """
    inputs = map_inputs(scenes, out, options, outputs, show_progress=show_progress)
    files = inputs.files
    for folder in {path.parent for written in files for path in written.files}:
        prepare_folder(folder)
    weights_file = weights_path(weights)
    runner = open_engine(weights_file, engine)
    options = options.fitting(runner.meta)
    mapper = SceneMapper(
        runner,
        run_provenance(runner, weights_file, options),
        options,
        outputs,
        show_progress=show_progress,
        on_ready=on_ready,
    )
    mapped: list[MappedScene] = []
    failures: dict[str, Exception] = {}
    # beside the map, where other machines see the mosaic too
    with bounded_block_cache(), inputs.scenes(scratch_folder) as names:
        if len(names) > 1:
            mapper.look(names)
        for name, written in zip(names, files, strict=True):
            try:
                maps = mapper.map(name, written)
            except MemoryError:
                raise  # the next scene would meet it too
            except Exception as error:  # one bad scene must not stop the others, whatever it is
                if len(names) == 1:
                    raise
                failures[name] = error
                if on_failed:
                    on_failed(name, error)
                continue
            mapped += maps
            if on_mapped:
                for scene in maps:
                    on_mapped(scene)
    if failures:
        raise ScenesFailedError(mapped, failures)
    return mapped


@heeding_signals()
def plan(
    scenes: str | Path | Sequence[str | Path],
    weights: str | Path | None = None,
    out: str | Path | None = None,
    options: MapOptions = MapOptions(),
    engine: EngineOptions = EngineOptions(),
    outputs: OutputOptions = OutputOptions(),
) -> list[PlannedScene]:
    """Return what `predict` would do with the same arguments, writing nothing.

    The time is estimated from a few windows of noise on this machine.

    Returns:
        A plan for each scene; one that can't be opened says why.

    Raises:
        HrrsiError: An option is not usable.
    """
    inputs = map_inputs(scenes, out, options, outputs)
    weights_file = weights_path(weights)
    runner = open_engine(weights_file, engine)
    options = options.fitting(runner.meta)
    provenance = run_provenance(runner, weights_file, options)
    mapper = SceneMapper(runner, provenance, options, outputs, show_progress=False)
    seconds = seconds_a_window(runner, options.effective_window)
    seconds *= len(symmetries(options.augmentation))
    plans = []
    with inputs.scenes(temporary_folder) as names:
        for name, written in zip(names, inputs.files, strict=True):
            try:
                with mapper.open(name) as source:
                    plans.append(planned_scene(source, written, options, outputs, runner, seconds))
            except HrrsiError as error:
                plans.append(PlannedScene(name, written, problem=str(error)))
        mapper.count_scenes(len(names))
    return plans


@dataclass(frozen=True)
class MapInputs:
    """What is mapped.

    Attributes:
        names: The scenes; the tiles of a mosaic.
        files: The files that each scene gets; those of the mosaic alone.
        mosaic: The tiles as one scene, where they are to be one.
    """

    names: list[str]
    files: list[Outputs]
    mosaic: Mosaic | None = None

    @contextmanager
    def scenes(
        self, scratch: Callable[[Path], AbstractContextManager[Path]]
    ) -> Iterator[list[str]]:
        """Yield the scenes to open: a mosaic as a file that is gone when the block ends.

        Args:
            scratch: Makes a folder for it, given a path that the folder may lie beside.
        """
        if self.mosaic is None:
            yield self.names
            return
        beside = self.files[0].classes
        with many_files(self.names), scratch(beside.with_name(beside.name + ".mosaic")) as folder:
            file = folder / f"{self.mosaic.name}.vrt"
            self.mosaic.write_vrt(file)
            yield [str(file)]


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Yield a folder of this machine, wherever a path lies."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def map_inputs(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path | None,
    options: MapOptions,
    outputs: OutputOptions,
    *,
    show_progress: bool = False,
) -> MapInputs:
    """Return the scenes, with the files that each gets.

    Raises:
        HrrsiError: There are none, one is missing, they are no tiles of one mosaic, or outputs
            collide or exist.
    """
    _check_tiles(options, outputs)
    named = [path for path in (options.aoi, outputs.zones) if path is not None]
    polygons = [Path(named_layer(path)[0]) for path in named]
    for path in polygons:
        if is_local(str(path)) and not path.exists():
            raise MissingInputError("no such file", where=path, fix="check the path")
    given = [inputs] if isinstance(inputs, str | Path) else inputs
    scenes = scene_files(given, tiles=options.mosaic, show_progress=show_progress)
    heights = None if options.height is None else height_files(str(options.height))
    if heights is not None:
        beside = {Path(path).resolve() for path in heights.paths}
        scenes = [s for s in scenes if Path(s).resolve() not in beside] or scenes
        if options.mosaic and not heights.is_single:
            raise OptionError(
                "a mosaic has one height model",
                parameter="height",
                fix="make one of them: `gdalbuildvrt heights.vrt dsm/*.tif`",
            )
        if not options.mosaic:
            heights.require_own([(scene, None) for scene in scenes])
    if not scenes:
        raise OptionError("no scenes are named", fix="name rasters, folders or patterns")
    mosaic = None
    if options.mosaic:
        from hrrsi.scenes.mosaic import tile_mosaic  # polygons' libraries, seldom asked for

        mosaic = tile_mosaic(scenes, crs=options.crs, show_progress=show_progress)
        for line in mosaic.notices():
            warnings.warn(line, SceneNotice, stacklevel=4)
    files = _files(scenes, mosaic, out, outputs)
    if len(scenes) == 1:
        with open_raster(scenes[0]):  # a wrong name should neither wait nor make folders
            pass
    read = [Path(s) for s in scenes if is_local(s)]
    read += [path.with_suffix(".prj") for path in read]
    models = [Path(path) for path in ([] if heights is None else heights.paths)]
    check_outputs(
        files, [*read, *polygons, *models], overwrite=outputs.overwrite, resume=outputs.resume
    )
    return MapInputs(scenes, files, mosaic)


def _check_tiles(options: MapOptions, outputs: OutputOptions) -> None:
    if outputs.tiles and not options.mosaic:
        raise OptionError("are those of a mosaic", parameter="tiles", fix="give `mosaic`")
    if outputs.tiles and options.crop:
        raise OptionError(
            "`crop` makes one map as large as the area of interest, and `tiles` one a tile",
            fix="give one of them",
        )


def _files(
    scenes: Sequence[str], mosaic: Mosaic | None, out: str | Path | None, outputs: OutputOptions
) -> list[Outputs]:
    """Return the files of each scene, or of the mosaic that they make up.

    Raises:
        HrrsiError: They collide.
    """
    named = partial(
        scene_outputs,
        confidence=outputs.confidence is not None,
        probabilities=outputs.probabilities is not None,
        vector=outputs.vector,
        zones=outputs.zones is not None,
        preview=outputs.preview,
    )
    if mosaic is None:
        return named(map_paths(scenes, out))
    if not outputs.tiles:
        return named(map_paths([f"{mosaic.name}.vrt"], out))
    each = named(map_paths(scenes, out))
    tiles = (
        TileOutputs(tile.path, tile.window, files)
        for tile, files in zip(mosaic.tiles, each, strict=True)
    )
    return [Outputs(each[0].classes.with_name(f"{mosaic.name}_classes.tif"), tiles=tuple(tiles))]
