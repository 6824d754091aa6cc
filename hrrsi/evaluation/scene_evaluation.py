"""Evaluation of weights on whole scenes, stitched from windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from hrrsi.errors import InputError
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip, Truth, observed, open_truth
from hrrsi.evaluation.evaluation import (
    Evaluation,
    class_lookup,
    pooled_counts,
    scenes_seen_in_training,
    warn_of_placements,
)
from hrrsi.evaluation.options import EvaluationOptions, LabelKind, mapping_words
from hrrsi.evaluation.scene_choice import labels_read
from hrrsi.evaluation.scene_counts import SceneCounts
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.merged_classes import MergedClasses, merged_classes
from hrrsi.labels.scene_labels import Indices
from hrrsi.labels.scheme import Scheme
from hrrsi.prediction.blending import Strip
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.options import MapOptions
from hrrsi.prediction.reading_resolution import ReadingResolution
from hrrsi.prediction.scene_checks import SceneChecks, require_height_as_trained
from hrrsi.prediction.scene_remarks import SceneRemarks
from hrrsi.prediction.sliding_window import predict_strips, value_scale
from hrrsi.quantities import names_text
from hrrsi.scenes.georeference import pixel_areas
from hrrsi.scenes.raster_opening import bounded_block_cache, file_states
from hrrsi.scenes.resampling import OWN_STEPS
from hrrsi.scenes.scene import Scene, open_scene
from hrrsi.scenes.window_source import SceneWindows, open_scene_windows
from hrrsi.scenes.windows import Window


@dataclass(frozen=True)
class SceneReading:
    """How a scene is read, decided before its pixels are counted.

    Attributes:
        file: Its files.
        kind: Which labels of the scenes are the truth.
        mapping: How it is mapped, with the value of full brightness.
        resolution: Metres per pixel that it is read at; None: its own.
        states: Size and time of change of its files, as `file_states` returns them.
    """

    file: SceneFiles
    kind: LabelKind
    mapping: MapOptions
    resolution: float | None
    states: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class CountedScene:
    """What was counted of a scene.

    Attributes:
        counts: The counts.
        unknown_pixels: Pixels with labels that the scheme doesn't know.
    """

    counts: SceneCounts
    unknown_pixels: int


@bounded_block_cache()
def evaluate_scenes(
    files: Sequence[SceneFiles],
    scheme: Scheme,
    engine: Engine,
    options: EvaluationOptions = EvaluationOptions(),
    mapping: MapOptions = MapOptions(),
    *,
    split: str | None = None,
    on_strip: Callable[[SceneFiles, EvaluatedStrip], None] | None = None,
    on_pixels: Callable[[int], None] | None = None,
    elsewhere: Callable[[Sequence[SceneReading]], Sequence[CountedScene]] | None = None,
) -> Evaluation:
    """Evaluate a network on whole scenes, each stitched from overlapping windows.

    Scenes are read, predicted and counted strip by strip. Pixels without data get no prediction,
    so their label counts in no score (`ConfusionMatrix.unpredicted` says how many there are). The
    truth are full labels, and beside them those with eroded borders: of the scene where it has
    such, else computed. Where no scene has full labels, eroded ones are all of the truth.
    Warns of what looks out of place, as `hrrsi.predict` does.

    Args:
        files: The scenes; each needs a label of the same kind.
        scheme: What the labels mean.
        engine: Runs the network.
        options: Which classes are joined, what happens to labels that the scheme doesn't know, and
            the blocks; which scenes and which protocol is for the caller.
        mapping: How scenes are read, their windows, and test-time augmentation.
        split: What the scenes are, for the record.
        on_strip: Called with each strip of each scene, from top to bottom, before it is counted.
        on_pixels: Called with the number of pixels that have just been predicted.
        elsewhere: Counts scenes once all were looked at, as `count_scene` does; None: this
            process does, one after the other. `on_strip` and `on_pixels` are not called then.

    Raises:
        InputError: Other classes or bands than the weights', a file that can't be read, a label
            that the scheme doesn't know or of another size than its image, or no labelled pixel.
    """
    mapping = mapping.fitting(engine.meta)
    merged = merged_classes(scheme, options.merges)
    _predicted_index(engine.meta.classes, scheme, merged)
    kind = labels_read(files)
    remarks = SceneRemarks()
    checks = SceneChecks(engine.meta, remarks)
    reading_resolution = ReadingResolution(engine.meta, mapping.resample, remarks)
    declared: dict[float, None] = {}
    resolutions: dict[str, None] = {}
    readings: list[SceneReading] = []
    counted: list[CountedScene] = []
    for file in files:
        with ExitStack() as stack:
            scene, truth = _open_labelled_scene(stack, file, scheme, engine, options, mapping)
            value_scale(scene, engine.meta, mapping.scale)  # scores rest on no estimate
            checks.compare_bands(scene, unasked=mapping.bands is None)
            if mapping.nodata == "auto":
                checks.note_nodata(scene)
            scale = checks.scale(scene, mapping.scale)
            if scale not in (mapping.scale, engine.meta.scale):
                declared[scale] = None
            resolution = reading_resolution.of_scene(scene)
            windows = stack.enter_context(open_scene_windows(scene, resolution=resolution))
            checks.compare_likeness(windows, scale)
            if windows.steps != OWN_STEPS:
                resolutions[f"{windows.resolution:.3g} m"] = None
            read_by = replace(mapping, scale=scale)
            reading = SceneReading(file, kind, read_by, resolution, file_states(file.paths))
            readings.append(reading)
            if elsewhere is None:
                opened = (windows, truth)
                counted.append(
                    _counted(opened, reading, scheme, engine, options, on_strip, on_pixels)
                )
    if elsewhere is not None:
        counted += elsewhere(readings)
    remarks.count_scenes(len(files))
    names = tuple(f.name for f in files)
    counts = [scene.counts for scene in counted]
    return Evaluation(
        counts=pooled_counts(counts, kind, names_text(names, most=3)),
        colours=merged.colours,
        data=scheme.name,
        split=split,
        scenes=names,
        unit="whole scenes",
        window=mapping.effective_window,
        overlap=mapping.effective_overlap,
        labels=kind,
        unknown_pixels=sum(scene.unknown_pixels for scene in counted),
        augmentation=mapping.augmentation,
        model=engine.meta.model,
        seen_in_training=scenes_seen_in_training(engine.meta, scheme.name, names),
        reading=(
            *options.words,
            *mapping_words(mapping),
            *(f"full brightness = {scale:g} where scenes declare it" for scale in declared),
            *(
                [f"read at {', '.join(resolutions)} where that is not the scenes' own"]
                if resolutions
                else []
            ),
        ),
    )


@bounded_block_cache()
def count_scene(
    reading: SceneReading,
    scheme: Scheme,
    engine: Engine,
    options: EvaluationOptions,
    *,
    on_pixels: Callable[[int], None] | None = None,
) -> CountedScene:
    """Return what is counted of a scene that `evaluate_scenes` has looked at.

    Args:
        reading: How it is read.
        scheme: What the labels mean.
        engine: Runs the network.
        options: As for `evaluate_scenes`.
        on_pixels: Called with the number of pixels that have just been predicted.

    Raises:
        InputError: A file can't be read.
    """
    with ExitStack() as stack:
        scene, truth = _open_labelled_scene(
            stack, reading.file, scheme, engine, options, reading.mapping
        )
        windows = stack.enter_context(open_scene_windows(scene, resolution=reading.resolution))
        return _counted((windows, truth), reading, scheme, engine, options, None, on_pixels)


def _counted(
    opened: tuple[SceneWindows, Truth],
    reading: SceneReading,
    scheme: Scheme,
    engine: Engine,
    options: EvaluationOptions,
    on_strip: Callable[[SceneFiles, EvaluatedStrip], None] | None,
    on_pixels: Callable[[int], None] | None,
) -> CountedScene:
    """Predict and count an open scene strip by strip."""
    windows, truth = opened
    merged = merged_classes(scheme, options.merges)
    new_index, is_joined = _predicted_index(engine.meta.classes, scheme, merged)
    strips = predict_strips(
        windows,
        engine,
        reading.mapping,
        # probabilities of joined classes add up, and only the winner's is known
        confidence=None if is_joined else "float32",
        on_pixels=on_pixels,
    )
    areas = pixel_areas(windows.scene.dataset)
    counts = SceneCounts(
        reading.file.name, merged.names, reading.kind, options.block, areas, merged.candidates
    )
    with closing(strips):  # their reader must stop before the scene is closed
        compared = _compared(strips, truth, merged.new_index, new_index)
        counts.add(observed(compared, reading.file, on_strip))
    return CountedScene(counts, truth.unknown_pixels)


def scene_pixels(
    files: Sequence[SceneFiles],
    scheme: Scheme,
    engine: Engine,
    options: EvaluationOptions = EvaluationOptions(),
    mapping: MapOptions = MapOptions(),
) -> int:
    """Return the pixels of all scenes, having checked that each opens together with its label.

    Raises:
        InputError: As `evaluate_scenes`, for what shows without reading the pixels.
    """
    labels_read(files)
    pixels = 0
    placements: dict[str, str] = {}
    blank = 0
    for file in files:
        with ExitStack() as stack:
            scene, truth = _open_labelled_scene(stack, file, scheme, engine, options, mapping)
            value_scale(scene, engine.meta, mapping.scale)
            pixels += scene.height * scene.width
            blank += truth.is_blank
            if truth.placement is not None:
                placements[file.name] = truth.placement
    if blank == len(files):
        raise InputError(
            f"no polygon lies on {files[0].image}"
            + (f", nor on the other {len(files) - 1} scenes" if len(files) > 1 else ""),
            where=files[0].label,
            fix="check the CRS of polygons and scenes, or choose other scenes",
        )
    warn_of_placements(placements)
    return pixels


def _open_labelled_scene(
    stack: ExitStack,
    files: SceneFiles,
    scheme: Scheme,
    engine: Engine,
    options: EvaluationOptions,
    mapping: MapOptions,
) -> tuple[Scene, Truth]:
    """Open a scene and its labels until `stack` closes.

    Raises:
        InputError: One can't be opened, or they don't fit each other or the network.
    """
    height = None if mapping.height is None else str(mapping.height)
    require_height_as_trained(engine.meta, height)
    if height is not None and files.height is None:
        raise InputError(
            "no height model fits it",
            where=f"scene {files.name}, `height={height}`",
            fix="add it, or choose other scenes with `scenes`",
        )
    scene = stack.enter_context(
        open_scene(
            files.image,
            bands=mapping.bands,
            expected_bands=engine.meta.image_bands,
            trained_bands=engine.meta.bands,
            meanings=engine.meta.input_meanings,
            nodata=mapping.nodata,
            crs=mapping.crs,
            height_model=files.height,
        )
    )
    truth = stack.enter_context(open_truth(files, scene, scheme, unknown=options.unknown))
    return scene, truth


def _compared(
    strips: Iterable[Strip], truth: Truth, true_index: Indices, predicted_index: Indices
) -> Iterator[EvaluatedStrip]:
    """Yield strips of a map beside their truth, with the classes of both in common indices."""
    for strip in strips:
        full, eroded = truth.read(Window(strip.first_row, 0, *strip.labels.shape))
        yield EvaluatedStrip(
            strip.first_row,
            true_index[full],
            predicted_index[strip.labels],
            strip.confidence,
            None if eroded is None else true_index[eroded],
        )


def _predicted_index(
    weights: Sequence[str], scheme: Scheme, merged: MergedClasses
) -> tuple[Indices, bool]:
    """Return the merged class of each class of the weights, and whether that joins any of them."""
    separate = {name.casefold() for name in scheme.class_names}
    if {name.casefold() for name in weights} == separate:
        lookup = class_lookup(weights, scheme.class_names, f"scheme {scheme.name}")
        return merged.new_index[lookup], len(merged.names) < len(separate)
    return class_lookup(weights, merged.names, f"scheme {scheme.name}"), False
