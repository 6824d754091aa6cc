"""Maps scenes: from rasters and weights to class rasters and what is made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hrrsi.errors import HrrsiError, MissingInputError, OptionError, warn
from hrrsi.files import named_layer, prepare_folder, scratch_folder
from hrrsi.interruption import heeding_signals
from hrrsi.maps.outputs import (
    Outputs,
    TileOutputs,
    check_outputs,
    map_paths,
    scene_outputs,
)
from hrrsi.maps.styles import files_beside
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import weights_path
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.map_writer import run_provenance
from hrrsi.prediction.mapped_scene import (
    MappedScene,
    PlannedScene,
    planned_scene,
    scene_files,
    seconds_a_window,
)
from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions
from hrrsi.prediction.scene_mapper import SceneMapper
from hrrsi.prediction.scene_remarks import SceneNotice, SceneWarning
from hrrsi.prediction.sliding_window import symmetries
from hrrsi.quantities import counted_names
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


@dataclass(frozen=True)
class MapTask:
    """Which scenes are mapped by which weights, how, and where to: arguments of `hrrsi.predict`.

    Attributes:
        scenes: One or many rasters, patterns or folders.
        weights: A weights file, or the name of weights inside the package; None: its default.
        out: A ``.tif`` file for one scene, or a folder; None: the current one.
        options: How scenes are read and mapped.
        engine: What runs the network.
        outputs: What is written beside the class maps, and what may be there already.
        show_progress: Whether to show progress on a terminal.
    """

    scenes: str | Path | Sequence[str | Path]
    weights: str | Path | None = None
    out: str | Path | None = None
    options: MapOptions = MapOptions()
    engine: EngineOptions = EngineOptions()
    outputs: OutputOptions = OutputOptions()
    show_progress: bool = False


def _ignored(*_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class MapObserver:
    """What is called while scenes are mapped.

    Attributes:
        ready: Called with what the weights say of themselves before the first scene is mapped.
        mapped: Called with each scene, or tile of a mosaic, once it has its map.
        failed: Called with the name of each of several scenes that fails, and why.
    """

    ready: Callable[[ModelMeta], object] = _ignored
    mapped: Callable[[MappedScene], object] = _ignored
    failed: Callable[[str, Exception], object] = _ignored


def mapped_scenes(task: MapTask, observer: MapObserver) -> list[MappedScene]:
    """Map scenes in this process, and return what `hrrsi.predict` does.

    Memory does not grow with the height of a scene (`sliding_window.predict_strips` says how);
    `hrrsi.maps.rasters.write_class_raster` says what is written.

    Raises:
        HrrsiError: As there.
        ScenesFailedError: Likewise.
        KeyboardInterrupt: Likewise.
    """
    _require_local(task.out)
    inputs = map_inputs(task)
    files = inputs.files
    for folder in {path.parent for map_files in files for path in map_files.files}:
        prepare_folder(folder)
    mapper, _ = _mapper(task, observer)
    mapped: list[MappedScene] = []
    failures: dict[str, Exception] = {}
    # beside the map, where other machines see the mosaic too
    with bounded_block_cache(), inputs.scenes(scratch_folder) as names:
        if len(names) > 1:
            mapper.survey.look(names)
        for name, map_files in zip(names, files, strict=True):
            try:
                maps = mapper.map(name, map_files)
            except MemoryError:
                raise  # the next scene would meet it too
            except Exception as error:  # one bad scene must not stop the others, whatever it is
                if len(names) == 1:
                    raise
                failures[name] = error
                observer.failed(name, error)
                continue
            mapped += maps
            for scene in maps:
                observer.mapped(scene)
    if failures:
        raise ScenesFailedError(mapped, failures)
    return mapped


@heeding_signals()
def planned_scenes(task: MapTask) -> list[PlannedScene]:
    """Return what mapping would take in this process, writing nothing.

    The time is estimated from a few windows of noise on this machine.

    Returns:
        A plan for each scene; one that can't be opened says why.

    Raises:
        HrrsiError: An option is not usable.
    """
    _require_local(task.out)
    inputs = map_inputs(task)
    mapper, runner = _mapper(task, MapObserver())
    options = task.options.fitting(runner.meta)
    seconds = seconds_a_window(runner, options.effective_window)
    seconds *= len(symmetries(options.augmentation))
    plans = []
    with inputs.scenes(temporary_folder) as names:
        for name, map_files in zip(names, inputs.files, strict=True):
            try:
                with mapper.survey.open(name) as source:
                    mapper.check_zones(source)
                    plans.append(
                        planned_scene(source, map_files, options, task.outputs, runner, seconds)
                    )
            except HrrsiError as error:
                plans.append(PlannedScene(name, map_files, problem=str(error)))
        mapper.survey.count_scenes(len(names))
    return plans


def _require_local(out: str | Path | None) -> None:
    if out is not None and not is_local(str(out)):
        raise OptionError(
            f"{out} is written to by the workers of a cluster alone",
            parameter="cluster",
            fix="give one (local:4 for processes of this machine), or a folder as `out`",
        )


def _mapper(task: MapTask, observer: MapObserver) -> tuple[SceneMapper, Engine]:
    """Return what maps scenes, and its engine."""
    weights_file = weights_path(task.weights)
    runner = open_engine(weights_file, task.engine)
    options = task.options.fitting(runner.meta)
    mapper = SceneMapper(
        runner,
        run_provenance(runner, weights_file, options),
        options,
        task.outputs,
        show_progress=task.show_progress,
        on_ready=observer.ready,
    )
    return mapper, runner


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


def map_inputs(task: MapTask) -> MapInputs:
    """Return the scenes of a task, with the files that each gets.

    Raises:
        HrrsiError: There are none, one is missing, they are no tiles of one mosaic, or outputs
            collide or exist.
    """
    options, outputs, show_progress = task.options, task.outputs, task.show_progress
    _check_tiles(options, outputs)
    vector_files = [path for path in (options.aoi, outputs.zones) if path is not None]
    polygons = [Path(named_layer(path)[0]) for path in vector_files]
    for path in polygons:
        if is_local(str(path)) and not path.exists():
            raise MissingInputError("no such file", where=path, fix="check the path")
    entries = [task.scenes] if isinstance(task.scenes, str | Path) else task.scenes
    scenes = scene_files(entries, tiles=options.mosaic, show_progress=show_progress)
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

        value = None if options.nodata == "auto" else options.nodata
        mosaic = tile_mosaic(scenes, crs=options.crs, nodata=value, show_progress=show_progress)
        if options.nodata == "auto" and mosaic.overlapping:
            # it would be looked for in the mosaic, where collars have hidden other tiles
            raise OptionError(
                "is not looked for in tiles that overlap",
                parameter="nodata",
                fix="give the value that their collars hold, e.g. `nodata=0`",
            ).at("`nodata=auto`")
        for line in mosaic.notices():
            warn(line, SceneNotice)
    files = _files(scenes, mosaic, task.out, outputs)
    if len(scenes) == 1:
        with open_raster(scenes[0]):  # a wrong name should neither wait nor make folders
            pass
    read = [Path(s) for s in scenes if is_local(s)]
    read += [path.with_suffix(".prj") for path in read]
    models = [Path(path) for path in ([] if heights is None else heights.paths)]
    check_outputs(
        files, [*read, *polygons, *models], overwrite=outputs.overwrite, resume=outputs.resume
    )
    if outputs.overwrite:
        _warn_of_left_files([each for whole in files for each in whole.maps])
    return MapInputs(scenes, files, mosaic)


def _warn_of_left_files(maps: Sequence[Outputs]) -> None:
    """Warn of files that were made of maps which are replaced, and that nothing replaces."""
    left = []
    for files in maps:
        if files.classes.exists():
            own = {path.name for path in (*files.files, *files.sidecars)}
            of_map = files_beside(files.classes)  # those of a map before it were told then
            of_this = (name for name, digest in of_map.items() if digest and name not in own)
            left += [path for path in map(files.classes.with_name, of_this) if path.exists()]
    if left:
        names = counted_names([path.name for path in left], 3)
        warn(
            f"{names}: made of a map that is replaced, and left as before; remove them, or "
            "ask for them again",
            SceneWarning,
        )


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
    outputs_for = partial(
        scene_outputs,
        confidence=outputs.confidence is not None,
        probabilities=outputs.probabilities is not None,
        vector=outputs.vector,
        zones=outputs.zones is not None,
        preview=outputs.preview,
    )
    if mosaic is None:
        return outputs_for(map_paths(scenes, out))
    if not outputs.tiles:
        return outputs_for(map_paths([f"{mosaic.name}.vrt"], out))
    maps = outputs_for(map_paths(scenes, out))
    tiles = (
        TileOutputs(tile.path, tile.window, files)
        for tile, files in zip(mosaic.tiles, maps, strict=True)
    )
    return [Outputs(maps[0].classes.with_name(f"{mosaic.name}_classes.tif"), tiles=tuple(tiles))]
