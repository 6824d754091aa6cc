"""What an evaluation of weights or maps on labelled data takes, and comparisons of two of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from hrrsi.classes import Colour
from hrrsi.errors import InputError, OptionError, warn
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.evaluation import (
    Evaluation,
    EvaluationWarning,
    MapFiles,
    MapSource,
    inference_with,
    require_labels,
)
from hrrsi.evaluation.map_evaluation import evaluate_maps, map_pixels
from hrrsi.evaluation.options import (
    SINGLE_PRECISION,
    EvaluationOptions,
    MapReading,
    check_combination,
    named_protocol,
)
from hrrsi.evaluation.patch_evaluation import default_split, evaluate_dataset
from hrrsi.evaluation.result import Comparison, EvaluationResult
from hrrsi.evaluation.scene_choice import ChosenScenes, chosen_scenes, paired_maps
from hrrsi.evaluation.scene_evaluation import (
    CountedScene,
    SceneReading,
    evaluate_scenes,
    scene_pixels,
)
from hrrsi.interruption import heeding_signals
from hrrsi.labels.label_reading import mask_scheme
from hrrsi.labels.labelled_scenes import SceneFiles, labelled_scenes
from hrrsi.labels.merged_classes import merged_classes
from hrrsi.labels.scheme import Scheme, load_scheme
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import is_weights_file
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.options import EngineOptions, MapOptions
from hrrsi.prediction.scene_checks import require_height_as_trained
from hrrsi.progress import progress
from hrrsi.quantities import counted_names
from hrrsi.scenes.bands import chosen_bands
from hrrsi.scenes.raster_opening import file_states, refuse_changed, unchanged
from hrrsi.tiling.dataset import DESCRIPTION, TiledDataset

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class SceneSet:
    """The scenes that are evaluated.

    Attributes:
        files: Their files; of maps that are there, each scene's image is its map.
        scheme: What labels mean.
        colours: Colours of the classes in the order of their indices.
        bands_of: Returns the 1-based bands that are read of a scene, by its path and rasterio
            dataset; None: nothing is read of them.
        are_maps: Whether they are maps that are there.
    """

    files: Sequence[SceneFiles]
    scheme: Scheme
    colours: tuple[Colour, ...]
    bands_of: Callable[[str, Any], Sequence[int]] | None
    are_maps: bool


class SceneObserver(Protocol):
    """Sees what is evaluated of whole scenes and maps while it streams by, e.g. for pictures."""

    def begin(self, scenes: SceneSet) -> None:
        """Begin with scenes whose strips follow, scene by scene."""

    def add(self, file: SceneFiles, strip: EvaluatedStrip) -> None:
        """See a strip; those of a scene come from top to bottom."""


# counts scenes: (what labels mean, a progress bar in megapixels, the scenes)
CountingElsewhere = Callable[[Scheme, Any, Sequence[SceneReading]], Sequence[CountedScene]]


@heeding_signals()
def compare(
    first: EvaluationResult | Paths,
    second: EvaluationResult | Paths,
    data: Paths = (),
    *,
    options: EvaluationOptions = EvaluationOptions(),
    mapping: MapOptions = MapOptions(),
    engine: EngineOptions = SINGLE_PRECISION,
    reading: MapReading = MapReading(),
    observers: Sequence[SceneObserver | None] = (None, None),
    show_progress: bool = False,
) -> Comparison:
    """Compare two evaluations, or two weights files or maps on `data`.

    Two maps are scored where both predict, so that leaving out what is hard can't win; polygons
    are burned onto the grid of the first.

    Examples:
        >>> options = hrrsi.EvaluationOptions(scheme="dubai", split="val")
        >>> comparison = hrrsi.compare(
        ...     "old.safetensors", "new.safetensors", "dubai/", options=options
        ... )  # doctest: +SKIP
        >>> difference = comparison.differences["mIoU"]  # doctest: +SKIP
        >>> print(difference.interval, difference.p, difference.is_significant)  # doctest: +SKIP

    Args:
        first: What to compare with: the result of an evaluation, a weights file, or a map, or
            several of several scenes.
        second: What differences are of; of the same kind.
        data: As for `evaluate`.
        options: Likewise.
        mapping: Likewise.
        engine: Likewise.
        reading: Likewise.
        observers: See the strips of the first and of the second.
        show_progress: Whether to show progress on a terminal.

    Raises:
        OptionError: As for `evaluate`, or the two are of other kinds.
        InputError: Likewise, or they are of other classes, scenes or protocols.
    """
    if isinstance(first, EvaluationResult) and isinstance(second, EvaluationResult):
        return Comparison(first, second)
    if isinstance(first, EvaluationResult) or isinstance(second, EvaluationResult):
        raise OptionError("is of another kind than `first`", parameter="second")
    task = EvaluationTask(paths_of(data), options, mapping, engine, reading, show_progress)
    paths = paths_of(first), paths_of(second)
    are_weights = all(len(own) == 1 and is_weights_file(own[0]) for own in paths)
    task.check(() if are_weights else (*paths[0], *paths[1]))
    if not are_weights:
        results = [
            task.of_maps(own, observer, compared_with=other, grids=paths[0])
            for own, other, observer in zip(paths, reversed(paths), observers, strict=True)
        ]
        return Comparison(*results)
    files = [own[0] for own in paths]
    engines = [task.opened(file) for file in files]  # both, before hours of work
    results = [
        task.of_weights(file, runner, observer)
        for file, runner, observer in zip(files, engines, observers, strict=True)
    ]
    return Comparison(*results)


def paths_of(paths: Paths) -> tuple[Path, ...]:
    """Return one path or several, as callers name them."""
    return (Path(paths),) if isinstance(paths, str | Path) else tuple(map(Path, paths))


@dataclass(frozen=True)
class EvaluationTask:
    """On which data is evaluated, and how: arguments of `hrrsi.evaluate`.

    Attributes:
        elsewhere: What counts whole scenes, instead of this process; it has a bar of its own.
    """

    data: tuple[Path, ...]
    options: EvaluationOptions
    mapping: MapOptions
    engine: EngineOptions
    reading: MapReading
    show_progress: bool
    elsewhere: CountingElsewhere | None = None

    @cached_property
    def scheme(self) -> Scheme | None:
        """What labels mean; None for a tiled dataset."""
        if self.options.scheme is None:
            return None
        scheme = load_scheme(self.options.scheme)
        return scheme.read_as(self.options.label_format, self.options.attribute)

    def check(self, maps: Sequence[Path], weights: str | Path | None = None) -> None:
        """Raise for what shows before hours of work.

        Raises:
            OptionError: Options don't go together, or with the data.
            InputError: The scheme can't be used.
        """
        check_combination(self.data, maps, weights, self.options, self.mapping, self.reading)
        if self.scheme is not None:
            classes = merged_classes(self.scheme, self.options.merges).names
            named_protocol(self.options.protocol, classes, self.options.clutter)

    def opened(self, weights: str | Path | None) -> Engine:
        """Return the engine that runs weights, having checked the protocol against them."""
        runner = open_engine(weights, self.engine)
        self.mapping.fitting(runner.meta)
        if self.scheme is None:
            named_protocol(self.options.protocol, runner.meta.classes, self.options.clutter)
        return runner

    def of_weights(
        self, weights: str | Path | None, runner: Engine, observer: SceneObserver | None
    ) -> EvaluationResult:
        """Evaluate weights on the data."""
        source = inference_with(runner, weights)  # now: the file may change meanwhile
        if self.scheme is None:
            return self._result(self._of_dataset(runner), source)
        chosen = self._labelled_scenes(self.scheme, runner)
        labels = [label for file in chosen.files for label in file.labels]
        scheme, note = mask_scheme(self.scheme, labels)
        if note is not None:
            _warn(note.partition(": ")[2])
        total = scene_pixels(chosen.files, scheme, runner, self.options, self.mapping) / 1e6
        if observer is not None:
            observer.begin(self._scene_set(self.scheme, chosen, partial(self._bands, runner.meta)))
        evaluations: list[Evaluation] = []
        elsewhere = self.elsewhere
        before = file_states(path for file in chosen.files for path in file.paths)
        for augmentation in dict.fromkeys(("none", self.mapping.augmentation)):
            title = "evaluating" if augmentation == "none" else f"with {augmentation}"
            with progress(title, total, " Mpx", scale=True, enabled=self.show_progress) as bar:
                evaluations.append(
                    evaluate_scenes(
                        chosen.files,
                        scheme,
                        runner,
                        self.options,
                        replace(self.mapping, augmentation=augmentation),
                        split=chosen.split,
                        on_strip=observer.add if observer and not evaluations else None,
                        on_pixels=_in_megapixels(bar),
                        elsewhere=None if elsewhere is None else partial(elsewhere, scheme, bar),
                    )
                )
        refuse_changed(before)
        return self._result(evaluations[0], source, *evaluations[1:])

    def of_maps(
        self,
        maps: Sequence[Path],
        observer: SceneObserver | None,
        compared_with: Sequence[Path] = (),
        grids: Sequence[Path] = (),
    ) -> EvaluationResult:
        """Evaluate maps against their labels, which are the data.

        Args:
            maps: Rasters, and folders of them.
            observer: Sees their strips.
            compared_with: The other maps of a comparison: what these lack is not scored.
            grids: The maps on whose grids polygons are burned; by default `maps`.

        Raises:
            InputError: As for `paired_maps` and `evaluate_maps`.
        """
        assert self.scheme is not None  # labels need one
        chosen = self._paired(self.scheme, maps)
        other_files, on_grids = (
            self._paired(self.scheme, paths).files if paths else []
            for paths in (compared_with, grids)
        )
        total = map_pixels(chosen.files, self.scheme, self.options, self.reading) / 1e6
        if observer is not None:
            observer.begin(replace(self._scene_set(self.scheme, chosen, None), are_maps=True))
        read = (path for file in (*chosen.files, *other_files) for path in file.paths)
        with (
            unchanged(read),
            progress("evaluating", total, " Mpx", scale=True, enabled=self.show_progress) as bar,
        ):
            evaluation = evaluate_maps(
                chosen.files,
                self.scheme,
                self.options,
                self.reading,
                split=chosen.split,
                compared_with=other_files,
                grids=on_grids,
                on_strip=None if observer is None else observer.add,
                on_pixels=_in_megapixels(bar),
            )
        files = tuple(file.image for file in chosen.files)
        return self._result(evaluation, MapFiles(files, tuple(maps)))

    def _of_dataset(self, runner: Engine) -> Evaluation:
        folder = self.data[0]
        if folder.is_dir() and not (folder / DESCRIPTION).is_file():
            raise InputError(
                f"is not a tiled dataset (no {DESCRIPTION})",
                where=folder,
                fix="make one with `hrrsi tile`, or give `scheme` to evaluate whole scenes",
            )
        dataset = TiledDataset(folder)
        split = self.options.split or default_split(dataset)
        total = len(dataset.patches(split))
        with progress(f"evaluating {split}", total, " patches", enabled=self.show_progress) as bar:
            return evaluate_dataset(
                dataset, runner, self.mapping.resample, split=split, on_patches=bar.update
            )

    def _labelled_scenes(self, scheme: Scheme, runner: Engine) -> ChosenScenes:
        """Return the scenes to evaluate, and warn of those that are left out."""
        height = None if self.mapping.height is None else str(self.mapping.height)
        require_height_as_trained(runner.meta, height)  # before files are looked for
        available = labelled_scenes(self.data, scheme, heights=height)
        chosen = chosen_scenes(
            available, scheme, split=self.options.split, scenes=self.options.scenes
        )
        if chosen.unlabelled:
            _warn(f"left out because they have no label: {counted_names(chosen.unlabelled)}")
        if chosen.absent:
            absent = counted_names(chosen.absent)
            _warn(f"the split {chosen.split} also names {absent}, not found here")
        self._check_attribute(scheme, chosen)
        return chosen

    def _check_attribute(self, scheme: Scheme, chosen: ChosenScenes) -> None:
        labels = [label for file in chosen.files for label in file.labels]
        formats = {scheme.reading(label).label_format for label in labels}
        if self.options.attribute is not None and formats and "polygons" not in formats:
            raise OptionError(
                f"is of polygons, and {labels[0]} is a raster",
                parameter="attribute",
                fix="leave it out",
            )

    def _paired(self, scheme: Scheme, maps: Sequence[Path]) -> ChosenScenes:
        chosen = paired_maps(
            maps, self.data, scheme, split=self.options.split, scenes=self.options.scenes
        )
        self._check_attribute(scheme, chosen)
        return chosen

    def _bands(self, meta: ModelMeta, path: str, dataset: Any) -> tuple[int, ...]:
        return chosen_bands(
            path, dataset, self.mapping.bands, meta.image_bands, meta.bands, meta.input_meanings
        )

    def _scene_set(
        self,
        scheme: Scheme,
        chosen: ChosenScenes,
        bands_of: Callable[[str, Any], Sequence[int]] | None,
    ) -> SceneSet:
        colours = merged_classes(scheme, self.options.merges).colours
        return SceneSet(chosen.files, scheme, colours, bands_of, are_maps=False)

    def _result(
        self, evaluation: Evaluation, source: MapSource, augmented: Evaluation | None = None
    ) -> EvaluationResult:
        """Return what follows from an evaluation, and warn of what flatters it."""
        options = self.options
        kind = "eroded" if options.eroded else evaluation.labels
        classes = evaluation.counts.scenes[0].classes
        protocol = named_protocol(options.protocol, classes, options.clutter, kind)
        result = EvaluationResult(evaluation, protocol, source, augmented, options.clutter)
        where = f"{self.data[0]}, {result.labels_text}"
        require_labels(evaluation.counts, protocol.labels, where)
        if evaluation.labels == "eroded" and self.scheme and not options.eroded:
            _warn("the labels are eroded ones, there are no full ones: borders are not scored")
        if evaluation.seen_in_training:
            _warn(f"the weights were trained on {counted_names(evaluation.seen_in_training)}")
        return result


def _in_megapixels(bar: Any) -> Callable[[int], None]:
    """Return what moves a progress bar on by pixels."""
    return lambda pixels: bar.update(pixels / 1e6)


def _warn(message: str) -> None:
    warn(message, EvaluationWarning)
