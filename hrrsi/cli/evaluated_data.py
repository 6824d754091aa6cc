"""Runs the evaluations of ``hrrsi eval``, with progress bars and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.evaluation import Evaluation
from hrrsi.evaluation.map_evaluation import MapReading, evaluate_maps, map_pixels
from hrrsi.evaluation.map_pairs import paired_maps
from hrrsi.evaluation.patch_evaluation import default_split, evaluate_dataset
from hrrsi.evaluation.scene_choice import chosen_scenes
from hrrsi.evaluation.scene_evaluation import SceneReading, evaluate_scenes, scene_pixels
from hrrsi.evaluation.scene_images import is_on_labels, scene_images
from hrrsi.labels.labelled_scenes import SceneFiles, labelled_scenes
from hrrsi.labels.scheme import Scheme, merged_classes
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.options import Augmentation
from hrrsi.prediction.scene_checks import require_height_as_trained
from hrrsi.progress import progress
from hrrsi.report.scene_views import SceneView, SceneViewCollector
from hrrsi.tiling.dataset import DESCRIPTION, TiledDataset


@dataclass(frozen=True)
class Evaluated:
    """What was evaluated.

    Attributes:
        evaluation: Without test-time augmentation.
        augmented: With it, where it was asked for.
        views: Pictures of the scenes, where they were asked for.
        maps: The maps' files, where they were there.
    """

    evaluation: Evaluation
    augmented: Evaluation | None = None
    views: tuple[SceneView, ...] = ()
    maps: tuple[str, ...] = ()


@dataclass(frozen=True)
class SceneQuestion:
    """Which scenes are evaluated, and how.

    Attributes:
        data: Folders and archives of raw scenes and labels.
        scheme: What the labels mean.
        reading: How scenes and labels are read.
        split: As for `hrrsi.evaluation.scene_choice.chosen_scenes`.
        scenes: Likewise.
        window: Rows and columns of a window.
        overlap: Pixels that windows share, or None for the default.
        augmentation: Test-time augmentation to score too, or ``none``.
        block: Rows and columns of the blocks that intervals are estimated from.
        has_views: Whether pictures of the scenes are wanted.
        quiet: No progress bars.
    """

    data: Sequence[Path]
    scheme: Scheme
    reading: SceneReading
    split: str | None
    scenes: Sequence[str]
    window: int
    overlap: int | None
    augmentation: Augmentation
    block: int
    has_views: bool
    quiet: bool


def evaluated_dataset(folder: Path, engine: Engine, *, split: str | None, quiet: bool) -> Evaluated:
    """Evaluate a network on a tiled dataset.

    Raises:
        HrrsiError: As `hrrsi.evaluation.patch_evaluation.evaluate_dataset`.
    """
    if folder.is_dir() and not (folder / DESCRIPTION).is_file():
        raise HrrsiError(
            f"is not a tiled dataset (no {DESCRIPTION})",
            where=folder,
            fix="make one with `hrrsi tile`, or give --scheme to evaluate whole scenes",
        )
    dataset = TiledDataset(folder)
    split = split or default_split(dataset)
    total = len(dataset.patches(split))
    with progress(f"evaluating {split}", total, " patches", enabled=not quiet) as bar:
        return Evaluated(evaluate_dataset(dataset, engine, split=split, on_patches=bar.update))


def evaluated_scenes(question: SceneQuestion, engine: Engine) -> Evaluated:
    """Evaluate a network on whole scenes.

    Raises:
        HrrsiError: As `hrrsi.evaluation.scene_evaluation.evaluate_scenes`.
    """
    q, reading = question, question.reading
    require_height_as_trained(engine.meta, reading.height)  # before files are looked for
    found = labelled_scenes(q.data, q.scheme, heights=reading.height)
    chosen = chosen_scenes(found, q.scheme, split=q.split, scenes=q.scenes)
    if chosen.unlabelled:
        warn(f"left out because they have no label: {few(chosen.unlabelled)}")
    if chosen.absent:
        warn(f"the split {chosen.split} also names {few(chosen.absent)}, not found here")
    total = scene_pixels(chosen.files, q.scheme, engine, reading) / 1e6
    views = None
    if q.has_views:
        views = SceneViewCollector(
            merged_classes(q.scheme, reading.merges).colours,
            len(chosen.files),
            bands=reading.bands or engine.meta["bands"],
        )

    def evaluated(augmentation: Augmentation) -> Evaluation:
        what = "evaluating" if augmentation == "none" else f"with {augmentation}"
        with progress(what, total, " Mpx", scale=True, enabled=not q.quiet) as bar:
            return evaluate_scenes(
                chosen.files,
                q.scheme,
                engine,
                split=chosen.split,
                reading=reading,
                window=q.window,
                overlap=q.overlap,
                augmentation=augmentation,
                block=q.block,
                on_strip=views if augmentation == "none" else None,
                on_pixels=lambda pixels: bar.update(pixels / 1e6),
            )

    plain = evaluated("none")
    augmented = None if q.augmentation == "none" else evaluated(q.augmentation)
    return Evaluated(plain, augmented, views.views if views else ())


def evaluated_maps(
    maps: Sequence[Path],
    labels: Sequence[Path],
    question: SceneQuestion,
    reading: MapReading,
    compared_with: Sequence[Path] = (),
    grids: Sequence[Path] = (),
    images: Sequence[Path] = (),
) -> Evaluated:
    """Evaluate maps that are there.

    Args:
        maps: As they were named.
        labels: Likewise.
        question: Which scenes count.
        reading: How they are read.
        compared_with: The other maps, where two are compared: what these lack is not scored.
        grids: The maps on whose grids labels are burned that are polygons; by default `maps`.
        images: Of the scenes, to show under the maps.

    Raises:
        HrrsiError: As `hrrsi.evaluation.map_evaluation.evaluate_maps` and
            `hrrsi.evaluation.scene_images.scene_images`.
    """
    q = question
    chosen = paired_maps(maps, labels, q.scheme, split=q.split, scenes=q.scenes)
    others, on_grids = (
        paired_maps(paths, labels, q.scheme, split=q.split, scenes=q.scenes).files if paths else []
        for paths in (compared_with, grids)
    )
    total = map_pixels(chosen.files, q.scheme, reading) / 1e6
    views = None
    if q.has_views:
        colours = merged_classes(q.scheme, reading.merges).colours
        pictures = _pictures(images, chosen.files, q.scheme) if images else {}
        views = SceneViewCollector(colours, len(chosen.files), images=pictures)
    with progress("evaluating", total, " Mpx", scale=True, enabled=not q.quiet) as bar:
        evaluation = evaluate_maps(
            chosen.files,
            q.scheme,
            split=chosen.split,
            reading=reading,
            block=q.block,
            compared_with=others,
            grids=on_grids,
            on_strip=views,
            on_pixels=lambda pixels: bar.update(pixels / 1e6),
        )
    files = tuple(file.image for file in chosen.files)
    return Evaluated(evaluation, views=views.views if views else (), maps=files)


def _pictures(
    images: Sequence[Path], files: Sequence[SceneFiles], scheme: Scheme
) -> dict[str, str]:
    """Return the image to show under the map of each scene; warn of those without."""
    found = scene_images(images, [file.name for file in files], scheme)
    lacking = [file.name for file in files if file.name not in found]
    if lacking:
        warn(f"shown without an image, for none fits: {few(lacking)}")
    elsewhere = [
        file.name
        for file in files
        if file.name in found and not is_on_labels(found[file.name], file, scheme)
    ]
    if elsewhere:
        paths = [found.pop(name) for name in elsewhere]
        warn(f"left out because of another size or place than the labels: {few(paths)}")
    return found


def few(values: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    return ", ".join(values[:8]) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def warn(message: str) -> None:
    """Print a warning."""
    typer.echo(f"warning: {message}", err=True)
