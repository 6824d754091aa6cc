"""Evaluation on whole scenes, stitched from overlapping windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.evaluation import (
    Evaluation,
    class_lookup,
    require_labels,
    scenes_seen_in_training,
)
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.labels.class_merging import MergedClasses, merged_classes
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scene_labels import Labels, Unknown
from hrrsi.labels.scheme import IGNORE_INDEX, Scheme
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.height_check import image_bands, require_height_as_trained
from hrrsi.prediction.scene_checks import SceneChecks
from hrrsi.prediction.sliding_window import checked_overlap, predict_strips, value_scale
from hrrsi.scenes.scene import Scene, open_scene
from hrrsi.scenes.windows import DEFAULT_WINDOW, Window


@dataclass(frozen=True)
class SceneReading:
    """How scenes and their labels are read.

    Attributes:
        merges: Classes to join, as `hrrsi.labels.class_merging.merged_classes` takes them.
        eroded: Whether labels with eroded class borders are the truth.
        unknown: What to do about labels that the scheme doesn't know.
        bands: The 1-based bands of the scenes, or None for those that the weights were trained on.
        nodata: Value of pixels without data, beside what the scenes declare.
        scale: Value that counts as full brightness, or None for what scenes declare, else the
            weights'.
        height: Where height models come from, as the user says it, or None; the files are those
            of the scenes.
    """

    merges: tuple[str, ...] = ()
    eroded: bool = False
    unknown: Unknown = "error"
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    scale: float | None = None
    height: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """What differs from reading everything as it is, for the record of an evaluation."""
        return (
            *(f"merged {merge}" for merge in self.merges),
            *(["unknown labels ignored"] if self.unknown == "ignore" else []),
            *([f"bands {','.join(map(str, self.bands))}"] if self.bands else []),
            *([f"no data = {self.nodata:g}"] if self.nodata is not None else []),
            *([f"full brightness = {self.scale:g}"] if self.scale is not None else []),
            *([f"heights {self.height}"] if self.height is not None else []),
        )


def evaluate_scenes(
    files: Sequence[SceneFiles],
    scheme: Scheme,
    engine: Engine,
    *,
    split: str | None = None,
    reading: SceneReading | None = None,
    window: int = DEFAULT_WINDOW,
    overlap: int | None = None,
    on_pixels: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate a network on whole scenes, each stitched from overlapping windows.

    Scenes are read, predicted and counted strip by strip. Pixels without data get no prediction,
    so their label counts in no score (`ConfusionMatrix.unpredicted` says how many there are).
    Warns of what looks out of place, as `hrrsi.predict` does.

    Args:
        files: The scenes; each needs a label.
        scheme: What the labels mean.
        engine: Runs the network.
        split: What the scenes are, for the record.
        reading: How scenes and labels are read.
        window: Rows and columns of a window.
        overlap: Pixels that neighbouring windows share; by default 3/16 of `window`.
        on_pixels: Called with the number of pixels that have just been predicted.

    Raises:
        HrrsiError: Other classes or bands than the weights', a file that can't be read, a label
            that the scheme doesn't know or of another size than its image, or no labelled pixel.
    """
    reading = reading or SceneReading()
    merged = merged_classes(scheme, reading.merges)
    new_index = _predicted_index(engine.meta["classes"], scheme, merged)
    overlap = checked_overlap(window, overlap)
    matrix = ConfusionMatrix(merged.names)
    checks = SceneChecks(engine.meta)
    declared: dict[float, None] = {}
    ignored = unknown = 0
    for scene_file in files:
        with ExitStack() as stack:
            scene, labels = open_labelled_scene(stack, scene_file, scheme, engine, reading)
            value_scale(scene, engine.meta, reading.scale)  # scores rest on no estimate
            if reading.bands is None:
                checks.compare_bands(scene)
            scale = checks.scale(scene, reading.scale)
            if scale not in (reading.scale, engine.meta["scale"]):
                declared[scale] = None
            checks.compare_resolution(scene)
            # entered last: its reader must stop before the scene is closed
            strips = predict_strips(
                scene,
                engine,
                window=window,
                overlap=overlap,
                scale=scale,
                on_pixels=on_pixels,
            )
            for first, predicted, *_ in stack.enter_context(closing(strips)):
                strip = Window(first, 0, *predicted.shape)
                indices, unknown_here = labels.read_with_unknown(strip)
                truth = merged.new_index[indices]
                matrix.add(new_index[predicted], truth)
                ignored += int((truth == IGNORE_INDEX).sum())
                unknown += unknown_here
    names = tuple(f.name for f in files)
    require_labels(matrix, ", ".join(names[:3]) + (", ..." if len(names) > 3 else ""))
    return Evaluation(
        matrix=matrix,
        colours=merged.colours,
        data=scheme.name,
        split=split,
        scenes=names,
        unit="whole scenes",
        window=window,
        overlap=overlap,
        labels="eroded" if reading.eroded else "full",
        ignored_pixels=ignored,
        unknown_pixels=unknown,
        model=engine.meta["model"],
        seen_in_training=scenes_seen_in_training(engine.meta, scheme.name, names),
        reading=(
            *reading.words,
            *(f"full brightness = {scale:g} where scenes declare it" for scale in declared),
        ),
    )


def _predicted_index(
    weights: Sequence[str], scheme: Scheme, merged: MergedClasses
) -> npt.NDArray[np.uint8]:
    """Return the merged class of each class of the weights, which may know the classes apart."""
    apart = {name.casefold() for name in scheme.class_names}
    if {name.casefold() for name in weights} == apart:
        separate = class_lookup(weights, scheme.class_names, f"scheme {scheme.name}")
        joined: npt.NDArray[np.uint8] = merged.new_index[separate]
        return joined
    return class_lookup(weights, merged.names, f"scheme {scheme.name}")


def scene_pixels(
    files: Sequence[SceneFiles], scheme: Scheme, engine: Engine, reading: SceneReading
) -> int:
    """Return the pixels of all scenes, having checked that each opens together with its label.

    Raises:
        HrrsiError: As `evaluate_scenes`, for what shows without reading the pixels.
    """
    pixels = 0
    for scene_file in files:
        with ExitStack() as stack:
            scene, _ = open_labelled_scene(stack, scene_file, scheme, engine, reading)
            value_scale(scene, engine.meta, reading.scale)
            pixels += scene.height * scene.width
    return pixels


def open_labelled_scene(
    stack: ExitStack, files: SceneFiles, scheme: Scheme, engine: Engine, reading: SceneReading
) -> tuple[Scene, Labels]:
    """Open a scene and its labels until `stack` closes.

    Raises:
        HrrsiError: One can't be opened, or they don't fit each other or the network.
    """
    path = files.eroded_label if reading.eroded else files.label
    if path is None:
        raise HrrsiError(
            "has no label", where=f"scene {files.name}", fix="give the folder of the labels too"
        )
    require_height_as_trained(engine.meta, reading.height)
    if reading.height is not None and files.height is None:
        raise HrrsiError(
            "no height model fits it",
            where=f"scene {files.name}, --height {reading.height}",
            fix="add it, or choose other scenes with --scenes",
        )
    scene = stack.enter_context(
        open_scene(
            files.image,
            bands=reading.bands,
            expected_bands=image_bands(engine.meta),
            trained_bands=engine.meta["bands"],
            nodata=reading.nodata,
            height_model=files.height,
        )
    )
    labels = stack.enter_context(
        open_labels(path, scene, scheme, name=files.name, unknown=reading.unknown)
    )
    return scene, labels
