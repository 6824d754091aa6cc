"""The verbs that this process does alone or by the workers of a cluster: `predict`, `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hrrsi.errors import OptionError
from hrrsi.evaluation.options import SINGLE_PRECISION, EvaluationOptions, MapReading
from hrrsi.interruption import heeding_signals
from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions

if TYPE_CHECKING:
    from distributed import Client

    from hrrsi.cluster.connection import ClusterOptions
    from hrrsi.evaluation.evaluate import Paths, SceneObserver
    from hrrsi.evaluation.result import EvaluationResult
    from hrrsi.prediction.mapped_scene import MappedScene
    from hrrsi.prediction.predict import MapObserver


@heeding_signals()
def predict(
    scenes: str | Path | Sequence[str | Path],
    weights: str | Path | None = None,
    out: str | Path | None = None,
    options: MapOptions = MapOptions(),
    engine: EngineOptions = EngineOptions(),
    outputs: OutputOptions = OutputOptions(),
    *,
    cluster: str | ClusterOptions | Client | None = None,
    observer: MapObserver | None = None,
    show_progress: bool = False,
) -> list[MappedScene]:
    """Map scenes: write a georeferenced class raster for each, and what else is asked for.

    Memory does not grow with the height of a scene. Whatever stops a run, it leaves a hidden folder
    beside the map, from which ``OutputOptions(resume=True)`` goes on. The workers of a cluster
    write the same bytes as this process alone.

    Examples:
        >>> hrrsi.predict("scene.tif", out="maps/")[0].shares  # doctest: +SKIP
        [0.13, 0.52, 0.09, 0.1, 0.16]
        >>> hrrsi.predict("flights/", out="maps/", cluster="local:4")  # doctest: +SKIP

    Args:
        scenes: One or many rasters, patterns (``scenes/*.tif``) or folders.
        weights: A weights file, or the name of weights inside the package: ``default``, which it
            is by default, or ``light``.
        out: A ``.tif`` file for one scene, or a folder; by default the current folder, where maps
            are named ``SCENE_classes.tif``. With `cluster` also an address such as
            ``s3://bucket/maps/``.
        options: How scenes are read and mapped.
        engine: What runs the network.
        outputs: What is written beside the class maps, and what may be there already.
        cluster: Who maps: a `distributed.Client`, the address of a Dask scheduler, or
            `ClusterOptions`; None: this process.
        observer: What is called with each scene once it has its map, or has failed.
        show_progress: Whether to show progress in megapixels on a terminal.

    Returns:
        What was mapped, in the order of the scenes; with ``OutputOptions(tiles=True)`` each tile.

    Raises:
        HrrsiError: A scene, an output or an option is not usable.
        ClusterError: The cluster can't be reached, or its workers don't fit.
        ScenesFailedError: Some of several scenes failed; the others have their maps.
        KeyboardInterrupt: Interrupted; says how to go on.
    """
    from hrrsi.prediction.predict import MapObserver, MapTask, mapped_scenes

    task = MapTask(scenes, weights, out, options, engine, outputs, show_progress)
    observer = observer or MapObserver()
    if cluster is None:
        return mapped_scenes(task, observer)
    from hrrsi.cluster.client import mapped_by_workers  # not for a process that maps alone

    return mapped_by_workers(task, cluster, observer)


@heeding_signals()
def evaluate(
    data: Paths = (),
    *,
    weights: str | Path | None = None,
    maps: Paths = (),
    options: EvaluationOptions = EvaluationOptions(),
    mapping: MapOptions = MapOptions(),
    engine: EngineOptions = SINGLE_PRECISION,
    reading: MapReading = MapReading(),
    observer: SceneObserver | None = None,
    cluster: str | ClusterOptions | Client | None = None,
    show_progress: bool = False,
) -> EvaluationResult:
    """Score weights on labelled data, or maps that are there against their labels.

    Every pixel counts once, in one confusion matrix. Without a scheme, `data` is a tiled dataset,
    whose patches are seen on their own; with one, raw scenes, stitched from windows, or the labels
    of maps that any tool made, which are laid on them by georeference. Warns of what a reader of
    the scores has to know (`EvaluationWarning`). The workers of a cluster count the same to the
    last digit.

    Examples:
        >>> options = hrrsi.EvaluationOptions(scheme="dubai", split="test")
        >>> result = hrrsi.evaluate("dubai/", options=options)  # doctest: +SKIP
        >>> round(result.scores.mean_iou, 4)  # doctest: +SKIP
        0.4404
        >>> maps = hrrsi.evaluate("gt.tif", maps="map.tif", options=options)  # doctest: +SKIP
        >>> hrrsi.evaluate("dubai/", options=options, cluster="local:4")  # doctest: +SKIP

    Args:
        data: The folder of a tiled dataset; or folders and zips of raw scenes and labels; or the
            labels of `maps`: rasters or polygons, or folders and zips of them.
        weights: A weights file, or the name of weights inside the package: ``default``, which it
            is by default, or ``light``.
        maps: Rasters of classes, or folders of them, instead of weights.
        options: What is scored, and under which protocol.
        mapping: How whole scenes are read and mapped. With `augmentation` they are scored in a
            second pass, too (`EvaluationResult.augmented`).
        engine: What runs the network; by default in single precision.
        reading: How maps that are there are read.
        observer: Sees the strips of whole scenes and maps.
        cluster: Who counts whole scenes, as for `predict`; None: this process.
        show_progress: Whether to show progress on a terminal.

    Raises:
        OptionError: Options that don't go together, or with the data.
        InputError: Data, weights or maps that can't be used, or no pixel to score.
        ClusterError: The cluster can't be reached, or its workers don't fit.
    """
    from hrrsi.evaluation.evaluate import EvaluationTask, paths_of

    task = EvaluationTask(paths_of(data), options, mapping, engine, reading, show_progress)
    own_maps = paths_of(maps)
    task.check(own_maps, weights)
    if cluster is None:
        if own_maps:
            return task.of_maps(own_maps, observer)
        return task.of_weights(weights, task.opened(weights), observer)
    if own_maps or options.scheme is None or observer is not None:
        raise OptionError(
            "workers score weights on whole scenes; patches (without `scheme`), maps that are "
            "there, and what an observer is to see, are for one process",
            parameter="cluster",
            fix="leave it out",
        )
    from hrrsi.cluster.client import evaluated_by_workers

    return evaluated_by_workers(task, weights, cluster)
