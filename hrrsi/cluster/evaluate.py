"""Scores whole scenes by the workers of a cluster, to the digit as one process does."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrrsi.cluster.connection import ClusterOptions, connected
from hrrsi.cluster.readiness import EngineOfWorkers, Run, check_worker, own_versions
from hrrsi.cluster.worker import absolute, evaluate_scene
from hrrsi.cluster.workforce import Job, Workforce, new_run_id
from hrrsi.errors import OptionError
from hrrsi.evaluation.evaluate import EvaluationTask, Paths
from hrrsi.evaluation.options import SINGLE_PRECISION, EvaluationOptions, MapReading
from hrrsi.evaluation.result import EvaluationResult
from hrrsi.evaluation.weights_evaluation import CountedScene, SceneReading
from hrrsi.files import content_digest
from hrrsi.interruption import heeding_signals
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import Scheme
from hrrsi.networks.weights_file import weights_path
from hrrsi.networks.weights_reading import read_meta
from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions
from hrrsi.prediction.scene_checks import SceneNotice

if TYPE_CHECKING:
    from distributed import Client


@heeding_signals()
def evaluate_on_cluster(
    data: Paths,
    weights: str | Path | None = None,
    options: EvaluationOptions = EvaluationOptions(),
    mapping: MapOptions = MapOptions(),
    engine: EngineOptions = SINGLE_PRECISION,
    *,
    cluster: str | ClusterOptions | Client,
    show_progress: bool = False,
) -> EvaluationResult:
    """Score weights on whole scenes by the workers of a cluster.

    A task counts a scene. Counts are added up in the order of the scenes, so scores are those of
    `hrrsi.evaluate` to the last digit.

    Args:
        data: Folders and zips of raw scenes and labels, which workers see under the same paths.
        weights: As for `hrrsi.evaluate`, and so are the others.
        options: With a scheme.
        mapping: How scenes are read and mapped.
        engine: What runs the network.
        cluster: As for `hrrsi.predict`.
        show_progress: Whether to show progress on a terminal.

    Raises:
        OptionError: As `hrrsi.evaluate`, or the data are patches.
        InputError: Likewise.
        ClusterError: The cluster can't be reached, or its workers don't fit.
    """
    dealt = cluster if isinstance(cluster, ClusterOptions) else ClusterOptions(cluster)
    if options.scheme is None:
        raise OptionError(
            "workers score whole scenes, and without `scheme` the data are patches",
            parameter="cluster",
            fix="leave it out, or give `scheme`",
        )
    paths = (Path(data),) if isinstance(data, str | Path) else tuple(map(Path, data))
    task = EvaluationTask(paths, (), options, mapping, engine, MapReading(), show_progress)
    task.check((), weights)
    file = weights_path(weights)
    files = [file, *([file.with_suffix(".bin")] if file.suffix.lower() == ".xml" else [])]
    with connected(dealt) as client:
        height = None if mapping.height is None else absolute(str(mapping.height))
        run = Run(
            new_run_id(),
            (),
            tuple((part.name, content_digest(part)) for part in files),
            replace(mapping, height=height),
            OutputOptions(),
            engine,
            own_versions(),
        )
        sent: list[Any] = []

        def arguments(measure: bool) -> tuple[Any, ...]:
            # through the scheduler once, then from worker to worker, until none has it any more
            if not sent or any(part.status != "finished" for part in sent):
                sent[:] = [client.scatter(part.read_bytes()) for part in files]
            return (None, [], measure, sent)

        with Workforce(client, dealt, run, check_worker, arguments) as force:
            facts = force.gather(lambda what: warnings.warn(what, SceneNotice, stacklevel=2))
            runner = EngineOfWorkers(*facts[0].engine, read_meta(file))
            counted = replace(task, elsewhere=_Counting(force, options))
            return counted.of_weights(weights, runner, None)


class _Counting:
    """Counts scenes by workers."""

    def __init__(self, force: Workforce, options: EvaluationOptions) -> None:
        self._force, self._options = force, options

    def __call__(
        self, scheme: Scheme, bar: Any, readings: Sequence[SceneReading]
    ) -> list[CountedScene]:
        """Return what is counted of scenes, in their order."""
        jobs = [
            Job(
                f"evaluate scenes-{reading.file.name}",
                evaluate_scene,
                (_as_workers_see(reading), scheme, self._options),
                number,
            )
            for number, reading in enumerate(readings)
        ]
        waiting = list(reversed(jobs))
        counted: dict[int, CountedScene] = {}
        heard: dict[int, int] = {}
        shown = 0

        def show(job: Job) -> None:
            nonlocal shown
            heard[job.owner] = job.pixels
            now = sum(heard.values())
            bar.update((now - shown) / 1e6)
            shown = now

        def fail(_job: Job, error: Exception) -> None:
            raise error

        self._force.work(
            lambda: waiting.pop() if waiting else None,
            lambda job, result: counted.__setitem__(job.owner, result),
            fail,
            show,
            2,
        )
        return [counted[number] for number in range(len(jobs))]


def _as_workers_see(reading: SceneReading) -> SceneReading:
    file = reading.file

    def there(path: str | None) -> str | None:
        return None if path is None else absolute(path)

    seen = SceneFiles(
        file.name,
        absolute(file.image),
        there(file.label),
        there(file.eroded_label),
        there(file.height),
        tuple(map(absolute, file.more_labels)),
    )
    height = there(None if reading.mapping.height is None else str(reading.mapping.height))
    return replace(reading, file=seen, mapping=replace(reading.mapping, height=height))
