"""Raw scenes and labels become a tiled dataset."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from hrrsi.errors import InputError, OutputError
from hrrsi.files import locked, refuse_existing, refuse_foreign, replacing
from hrrsi.hardware import available_cores, memory_limit
from hrrsi.interruption import (
    heeding_signals,
    interrupt_kept_from_children,
    spawned_processes,
    stop_if_requested,
)
from hrrsi.labels.file_scheme import scheme_yaml
from hrrsi.labels.merged_classes import MergedClasses
from hrrsi.labels.scheme import Scheme
from hrrsi.labels.splits import Part, scene_of_block
from hrrsi.progress import progress
from hrrsi.scenes.input_bands import band_names
from hrrsi.scenes.missing_data import UndeclaredGap, undeclared_gap
from hrrsi.scenes.raster_opening import unchanged
from hrrsi.scenes.value_scale import (
    EstimatedScale,
    estimated_scale,
    joined_sample,
    scene_sample,
    thinned_sample,
)
from hrrsi.tiling.dataset import (
    DESCRIPTION,
    SPLITS,
    DatasetDescription,
    SplitContent,
    SplitLabels,
)
from hrrsi.tiling.options import TileOptions
from hrrsi.tiling.plan import TilingPlan, planned_tiling, scheme_statistics, tiling_sources
from hrrsi.tiling.result import TilingResult, gap_notes, scale_note
from hrrsi.tiling.scene_overlap import (
    Fingerprints,
    SceneOverlap,
    overlaps_by_georeference,
    overlaps_by_pixels,
)
from hrrsi.tiling.scene_rows import (
    BandMoments,
    RowsContent,
    SceneRows,
    Tiling,
    open_tiled,
    write_rows,
)
from hrrsi.tiling.split_map import BlockScene, write_split_map

Job = TypeVar("Job")
Result = TypeVar("Result")

SCHEME = "scheme.yaml"  # in a dataset whose scheme was made of its labels
_HEED_SECONDS = 0.2  # how long a request to stop may wait


@heeding_signals()
def tile(
    raw: str | Path | Sequence[str | Path],
    scheme: str | Path | Scheme | None,
    out: str | Path,
    *,
    options: TileOptions = TileOptions(),
    overwrite: bool = False,
    show_progress: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> TilingResult:
    """Cut raw scenes and their labels into a tiled dataset.

    The folder appears under its name whole or not at all, and holds the same bytes for the same
    arguments, whatever `options.workers`. A script that calls this needs
    ``if __name__ == "__main__":`` unless there is one worker, since processes import it.

    Examples:
        >>> hrrsi.tile("Vaihingen/", "vaihingen", "vaihingen512").notes  # doctest: +SKIP
        ['warning: no training pixel is labelled clutter']

    Args:
        raw: Folders of scenes and labels (searched with their subfolders), zip archives, which
            are read in place, and rasters, each of which is a scene.
        scheme: A built-in scheme by name, a YAML file, or a scheme; None: one is made of
            `options.labels`, and written as ``scheme.yaml`` into the dataset.
        out: The dataset's folder.
        options: How scenes are split, read and cut.
        overwrite: Whether `out` may be replaced where it is a tiled dataset.
        show_progress: Whether a terminal shows a progress bar.
        on_note: Called with those of the result's notes that are known before scenes are cut.

    Raises:
        InputError: There are no scenes, a label is missing, image and label differ in size, scenes
            differ in bands or type, a label is unknown, nothing is labelled, or a height model is
            missing, doesn't fit or holds nothing.
        OptionError: The options don't fit the scenes: classes, splits or scenes of another name.
        OutputError: `out` can't be written, or is there already.
    """
    out = Path(out)
    sources = tiling_sources(raw, scheme, options)
    _check_out(out, overwrite=overwrite)
    files = {path for file in sources.files for path in file.paths}
    with locked(out), replacing(out) as folder, unchanged(files):
        _check_out(out, overwrite=overwrite)  # another run may have ended meanwhile
        plan = planned_tiling(sources, options)
        estimate = None
        if plan.scale is None:
            estimate = estimated_training_scale(plan.tiling, plan.rows)
            plan = replace(plan, scale=estimate.value)
        notes = plan.scene_notes + _gap_notes(plan)
        if on_note is not None:
            for note in [*notes, *([scale_note(estimate)] if estimate else [])]:
                on_note(note)
        for part in {rows.part for rows in plan.rows}:
            for kind in ("image", "label"):
                (folder / part / kind).mkdir(parents=True)
        contents = _contents(plan, folder, show_progress=show_progress)
        result = replace(_result(plan, estimate, contents), scene_notes=notes)
        (folder / DESCRIPTION).write_text(result.description.to_yaml(), encoding="utf-8")
        if plan.blocks is not None:
            scenes = {
                r.scene: BlockScene(r.scene, r.image, r.bands, plan.steps[r.scene])
                for r in plan.rows
            }
            colours = plan.tiling.merged.label_colours
            write_split_map(
                folder, plan.blocks, list(scenes.values()), colours, plan.tiling.options.crs
            )
        if sources.scheme_notes:
            (folder / SCHEME).write_text(scheme_yaml(sources.scheme), encoding="utf-8")
    return result


def _check_out(out: Path, *, overwrite: bool) -> None:
    refuse_existing(out, overwrite=overwrite)
    if out.exists() and not (out / DESCRIPTION).is_file():
        raise OutputError(
            f"is not a tiled dataset (no {DESCRIPTION}), so it is not replaced",
            where=out,
            fix="choose another `out`",
        )
    if out.exists():
        refuse_foreign(out, (DESCRIPTION, SCHEME, *SPLITS))


def estimated_training_scale(tiling: Tiling, rows: Iterable[SceneRows]) -> EstimatedScale:
    """Return which value is likely to be full brightness in all training scenes together.

    Args:
        tiling: How scenes are read.
        rows: The work, of which that on training scenes counts.

    Raises:
        InputError: A scene can't be read somewhere.
    """
    images = {r.image: r.bands for r in rows if r.part == "train"}
    samples = []
    for image, bands in images.items():
        stop_if_requested()
        with open_tiled(image, bands, tiling.options) as scene:
            samples.append(thinned_sample(scene_sample(scene)))
    return estimated_scale(joined_sample(samples))


def _gap_notes(plan: TilingPlan) -> list[str]:
    """Return a line on what seems to hold no data, found by a look at every scene."""
    options = plan.tiling.options
    are_missing = options.nodata == "auto"
    gaps: dict[str, UndeclaredGap] = {}
    # a scene that is split into blocks has many rows, and is looked at once
    for rows in {rows.image: rows for rows in plan.rows}.values():
        stop_if_requested()
        as_declared = replace(options, nodata=None) if are_missing else options
        with open_tiled(rows.image, rows.bands, as_declared) as scene:
            gap = undeclared_gap(scene)
        if gap is not None:
            name = rows.scene if plan.blocks is None else scene_of_block(rows.scene)
            gaps[name] = gap
    return gap_notes(gaps, are_missing=are_missing)


def results_as_completed(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Generator[tuple[int, Result], None, None]:
    """Yield the position of each job and its result, in the order in which they finish.

    The first error, Ctrl-C, or closing the generator ends the processes at once.

    Args:
        function: Runs in the processes, so it must be importable; it and the jobs are pickled.
        jobs: What to call it with.
        workers: Number of processes; with one, everything runs in this process.

    Raises:
        DeviceError: A process died.
    """
    if min(workers, len(jobs)) <= 1:
        for position, job in enumerate(jobs):
            stop_if_requested()
            yield position, function(job)
        return
    count = min(workers, len(jobs))
    with spawned_processes(count, fix="give fewer `workers`") as pool:
        with interrupt_kept_from_children():
            futures = {pool.submit(function, job): i for i, job in enumerate(jobs)}
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, _HEED_SECONDS, FIRST_COMPLETED)
            stop_if_requested()
            for future in finished:
                yield futures[future], future.result()


def _contents(plan: TilingPlan, folder: Path, *, show_progress: bool) -> list[RowsContent]:
    """Write all patches, and return what each piece of the work holds, in the plan's order."""
    contents: dict[int, RowsContent] = {}
    total = sum(rows.pixels for rows in plan.rows) / 1e6
    workers = plan.tiling.options.workers or _default_workers()
    with progress("tiling", total, " Mpx", scale=True, enabled=show_progress) as bar:
        jobs = [(folder, plan.tiling, rows) for rows in plan.rows]
        with closing(results_as_completed(write_rows, jobs, workers)) as results:
            for position, content in results:
                contents[position] = content
                bar.update(plan.rows[position].pixels / 1e6)
    return [contents[position] for position in range(len(plan.rows))]


def _default_workers() -> int:
    """Return as many processes as there are cores, and memory for."""
    limit = memory_limit()
    return available_cores() if limit is None else min(available_cores(), max(1, limit >> 29))


def _result(
    plan: TilingPlan, estimate: EstimatedScale | None, contents: Sequence[RowsContent]
) -> TilingResult:
    tiling, scale = plan.tiling, plan.scale
    assert scale is not None
    without_height = _without_height(plan, contents)
    by_part: dict[Part, list[RowsContent]] = {}
    unknown: dict[str, int] = {}
    for rows, content in zip(plan.rows, contents, strict=True):
        by_part.setdefault(rows.part, []).append(content)
        if content.unknown_pixels:
            unknown[rows.scene] = unknown.get(rows.scene, 0) + content.unknown_pixels
    splits = _split_contents(plan, by_part)
    frequencies = _class_frequencies(tiling.merged, splits["train"])
    if not splits["train"].patches:
        raise InputError(
            "no pixel of the training scenes has a class",
            where=f"split {plan.split.name}",
            fix="check the labels, `label_format` and `aoi`",
        )
    of_scheme = scheme_statistics(tiling.scheme, tiling.bands, plan.dtype, scale)
    mean, std = of_scheme or ([], [])
    if tiling.measure:  # the bands that the scheme knows nothing of
        measured_mean, measured_std = _measured_statistics(tiling, scale, by_part["train"])
        mean, std = mean + measured_mean[len(mean) :], std + measured_std[len(std) :]
    description = DatasetDescription(
        scheme=tiling.scheme.name,
        split=plan.split.name,
        classes=list(tiling.merged.names),
        colours=list(tiling.merged.colours),
        partial=list(tiling.merged.partial),
        bands=list(tiling.bands),
        band_meanings=plan.scene_bands.meanings,
        height=tiling.options.height,
        dtype=plan.dtype,
        scale=scale,
        mean=mean,
        std=std,
        statistics="scheme" if of_scheme else "measured",
        class_frequencies=frequencies or [0.0] * len(tiling.merged.names),
        resolution="unknown" if plan.resolution is None else plan.resolution,
        resampled_from=plan.resampled_from,
        patch_size=tiling.options.size,
        stride=tiling.options.effective_stride,
        patch_format=tiling.file_format,
        splits=splits,
    )
    return TilingResult(
        description=description,
        split=plan.split,
        empty_patches=sum(c.empty_patches for c in contents),
        unknown_pixels=unknown,
        overlaps=_overlaps(plan, contents),
        estimated_scale=estimate,
        without_height=without_height,
        scene_notes=plan.scene_notes,
        counts_by_position=tiling.scheme.label_format == "indices"
        and not tiling.scheme.files
        and all(label.index is None for label in tiling.scheme.all_labels),
        ignores_outside=tiling.scheme.label_format == "polygons" and tiling.scheme.outside is None,
        ignores_255=tiling.scheme.leaves_255_open and plan.mask_note is None,
        unused_statistics=of_scheme is None and tiling.scheme.mean is not None,
    )


def _split_contents(
    plan: TilingPlan, by_part: dict[Part, list[RowsContent]]
) -> dict[Part, SplitContent]:
    classes = len(plan.tiling.merged.names)
    contents = {}
    for part in plan.split.parts:
        if part not in by_part:
            continue
        pieces = by_part[part]
        pixels = np.sum([c.label_pixels for c in pieces], axis=0).tolist()
        kind: SplitLabels = "full"
        if plan.tiling.options.eroded and part != "train":
            kind = "eroded"
        elif plan.tiling.options.unlabelled and not sum(pixels):
            kind = "none"
        contents[part] = SplitContent(
            scenes=list(plan.split.parts[part]),
            patches=sum(c.patches for c in pieces),
            class_pixels=pixels[:classes],
            partial_pixels=pixels[classes:],
            ignored_pixels=sum(c.ignored_pixels for c in pieces),
            labels=kind,
        )
    return contents


def _class_frequencies(merged: MergedClasses, train: SplitContent) -> list[float] | None:
    """Return the share of each class in the training pixels, or None where none is labelled."""
    pixels = dict(zip(merged.names, map(float, train.class_pixels), strict=True))
    for label, count in zip(merged.partial, train.partial_pixels, strict=True):
        for name in label.classes:
            pixels[name] += count / len(label.classes)
    labelled = sum(pixels.values())
    return [round(count / labelled, 8) for count in pixels.values()] if labelled else None


def _without_height(plan: TilingPlan, contents: Sequence[RowsContent]) -> dict[str, int]:
    """Return the pixels of each scene that have data but no height, where there are any.

    Raises:
        InputError: It is all of them.
    """
    counts: dict[str, tuple[str | None, int, int]] = {}
    for rows, content in zip(plan.rows, contents, strict=True):
        _, without, data = counts.get(rows.scene, (None, 0, 0))
        counts[rows.scene] = (
            rows.height,
            without + content.without_height,
            data + content.data_pixels,
        )
    for scene, (height, without, data) in counts.items():
        if without and without == data:
            raise InputError(
                f"holds no height for any pixel of the scene {scene}",
                where=height,
                fix="name its own height model, check its CRS and nodata value, or leave the "
                "scene out of the split",
            )
    return {scene: without for scene, (_, without, _) in counts.items() if without}


def _measured_statistics(
    tiling: Tiling, scale: float, train: Sequence[RowsContent]
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the training pixels, divided by the full scale."""
    names = tiling.band_names or band_names(tiling.bands, has_height=False)
    moments = BandMoments.of(np.zeros((len(names), 0)))
    for content in train:
        if content.moments is not None:
            moments = moments.joined(content.moments)
    mean = [round(float(m) / scale, 8) for m in moments.mean]
    std = [round(float(s) / scale, 8) for s in moments.std]
    for name, deviation in zip(names, std, strict=True):
        if not deviation:
            raise InputError(
                f"{name} of the training scenes holds a single value",
                where="split train",
                fix="leave out `height`" if name == "height" else "leave it out with `bands`",
            )
    return mean, std


def _overlaps(plan: TilingPlan, contents: Sequence[RowsContent]) -> list[SceneOverlap]:
    pieces: dict[str, list[Fingerprints]] = {}
    for rows, content in zip(plan.rows, contents, strict=True):
        pieces.setdefault(rows.name, []).extend(content.fingerprints)
    prints = {scene: np.unique(np.concatenate(parts)) for scene, parts in pieces.items() if parts}
    by_pixels = overlaps_by_pixels(plan.footprints, prints)
    return overlaps_by_georeference(plan.footprints) + by_pixels
