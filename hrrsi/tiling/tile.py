"""Raw scenes and labels become a tiled dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hrrsi.errors import HrrsiError
from hrrsi.files import refuse_existing, replacing
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import Scheme
from hrrsi.labels.splits import Part, SceneSplit
from hrrsi.progress import progress
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.value_scale import EstimatedScale, SceneSample, estimated_scale, scene_sample
from hrrsi.tiling.dataset import DESCRIPTION, DatasetDescription, SplitContent, band_names
from hrrsi.tiling.plan import TilingOptions, TilingPlan, scheme_statistics, tiling_plan
from hrrsi.tiling.scene_overlap import (
    Fingerprints,
    SceneOverlap,
    overlaps_by_georeference,
    overlaps_by_pixels,
)
from hrrsi.tiling.scene_rows import BandMoments, RowsContent, SceneRows, Tiling, write_rows
from hrrsi.tiling.worker_processes import results_as_completed

_SCENE_PIXELS = 1 << 17  # so many of each scene have a say


def estimated_training_scale(tiling: Tiling, rows: Iterable[SceneRows]) -> EstimatedScale:
    """Return which value is likely to be full brightness in all training scenes together.

    Args:
        tiling: How scenes are read.
        rows: The work, of which that on training scenes counts.

    Raises:
        HrrsiError: A scene can't be read somewhere.
    """
    images = dict.fromkeys(r.image for r in rows if r.part == "train")
    samples = []
    for image in images:
        with open_scene(
            image, bands=tiling.bands, expected_bands=len(tiling.bands), nodata=tiling.nodata
        ) as scene:
            samples.append(scene_sample(scene))
    thinned = [s.values[:, :: -(-s.values.shape[1] // _SCENE_PIXELS) or 1] for s in samples]
    return estimated_scale(SceneSample(np.concatenate(thinned, axis=1), samples[0].dtype, None))


@dataclass(frozen=True)
class TiledScenes:
    """What a tiling run made.

    Attributes:
        description: What ``dataset.yaml`` says.
        dropped: Patches left out because none of their pixels has a class.
        unknown_pixels: Pixels by scene whose label the scheme doesn't know.
        overlaps: Scenes of different parts that show the same ground.
        estimated_scale: Which value was taken for full brightness, and why, where neither the
            scenes nor the user said it; else None.
        without_height: Pixels by scene that are ignored because they have no height.
        alpha_band: The first band that the scenes call alpha, which was left out unasked; or None.
        unused_statistics: Whether the scheme has a mean and std, of other bands or values.
    """

    description: DatasetDescription
    dropped: int
    unknown_pixels: dict[str, int]
    overlaps: list[SceneOverlap]
    estimated_scale: EstimatedScale | None
    without_height: dict[str, int]
    alpha_band: int | None
    unused_statistics: bool


def tile(
    files: Sequence[SceneFiles],
    scheme: Scheme,
    split: SceneSplit,
    out: Path,
    options: TilingOptions | None = None,
    *,
    overwrite: bool = False,
) -> TiledScenes:
    """Cut scenes and labels into a tiled dataset.

    The folder appears under its name whole or not at all, and holds the same bytes for the same
    arguments, whatever `options.workers`.

    Args:
        files: The scenes, as `labelled_scenes` returns them.
        scheme: Says what labels mean.
        split: Which scenes train, validate and test, as `scene_split` returns it.
        out: The dataset's folder.
        options: How to cut.
        overwrite: Whether `out` may be replaced where it is a tiled dataset.

    Raises:
        HrrsiError: A label is missing, image and label differ in size, scenes differ in bands or
            type, a label is unknown, nothing is labelled, a height model is missing, doesn't fit
            or holds nothing, or `out` can't be written.
    """
    options = options or TilingOptions()
    refuse_existing(out, overwrite=overwrite)
    if out.exists() and not (out / DESCRIPTION).is_file():
        raise HrrsiError(
            f"is not a tiled dataset (no {DESCRIPTION}), so it is not replaced",
            where=out,
            fix="choose another --out",
        )
    with _naming(out), replacing(out) as folder:
        plan = tiling_plan(files, scheme, split, folder, options)
        estimate = None
        if plan.scale is None:
            estimate = estimated_training_scale(plan.tiling, plan.rows)
            plan = replace(plan, scale=estimate.value)
        for part in {rows.part for rows in plan.rows}:
            for kind in ("image", "label"):
                (folder / part / kind).mkdir(parents=True)
        made = _tiled_scenes(plan, estimate, _contents(plan, options), split, options)
        (folder / DESCRIPTION).write_text(made.description.to_yaml(), encoding="utf-8")
    return made


@contextmanager
def _naming(out: Path) -> Iterator[None]:
    """Name the dataset in errors of the operating system that name no file (a full disk)."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(out)
        raise


def _contents(plan: TilingPlan, options: TilingOptions) -> list[RowsContent]:
    """Write all patches, and return what each piece of the work holds, in the plan's order."""
    contents: dict[int, RowsContent] = {}
    total = sum(rows.pixels for rows in plan.rows) / 1e6
    with progress("tiling", total, " Mpx", scale=True, enabled=options.show_progress) as bar:
        jobs = [(plan.tiling, rows) for rows in plan.rows]
        with closing(results_as_completed(write_rows, jobs, options.workers)) as results:
            for position, content in results:
                contents[position] = content
                bar.update(plan.rows[position].pixels / 1e6)
    return [contents[position] for position in range(len(plan.rows))]


def _tiled_scenes(
    plan: TilingPlan,
    estimate: EstimatedScale | None,
    contents: Sequence[RowsContent],
    split: SceneSplit,
    options: TilingOptions,
) -> TiledScenes:
    tiling, scale = plan.tiling, plan.scale
    assert scale is not None
    without_height = _without_height(plan, contents)
    by_part: dict[Part, list[RowsContent]] = {}
    unknown: dict[str, int] = {}
    for rows, content in zip(plan.rows, contents, strict=True):
        by_part.setdefault(rows.part, []).append(content)
        if content.unknown_pixels:
            unknown[rows.scene] = unknown.get(rows.scene, 0) + content.unknown_pixels
    splits = {
        part: SplitContent(
            scenes=list(split.parts[part]),
            patches=sum(c.patches for c in pieces),
            class_pixels=np.sum([c.class_pixels for c in pieces], axis=0).tolist(),
            ignored_pixels=sum(c.ignored_pixels for c in pieces),
            labels="eroded" if options.eroded and part != "train" else "full",
        )
        for part, pieces in by_part.items()
    }
    class_pixels = splits["train"].class_pixels
    if not sum(class_pixels):
        raise HrrsiError(
            "no pixel of the training scenes has a class",
            where=f"split {split.name}",
            fix="check the labels, --label-format and --aoi",
        )
    known = scheme_statistics(tiling.scheme, tiling.bands, plan.dtype, scale)
    mean, std = known or ([], [])
    if tiling.measure:  # the bands that the scheme knows nothing of
        measured = _measured(tiling, scale, by_part["train"])
        mean, std = (
            [*ours, *found[len(ours) :]] for ours, found in zip((mean, std), measured, strict=True)
        )
    description = DatasetDescription(
        scheme=tiling.scheme.name,
        split=split.name,
        classes=list(tiling.merged.names),
        colours=list(tiling.merged.colours),
        bands=list(tiling.bands),
        height=options.height,
        dtype=plan.dtype,
        scale=scale,
        mean=mean,
        std=std,
        statistics="scheme" if known else "measured",
        class_frequencies=[round(n / sum(class_pixels), 8) for n in class_pixels],
        resolution="unknown" if plan.resolution is None else plan.resolution,
        patch_size=tiling.size,
        stride=tiling.stride,
        patch_format=tiling.file_format,
        splits=splits,
    )
    return TiledScenes(
        description=description,
        dropped=sum(c.dropped for c in contents),
        unknown_pixels=unknown,
        overlaps=_overlaps(plan, contents),
        estimated_scale=estimate,
        without_height=without_height,
        alpha_band=plan.alpha_band,
        unused_statistics=known is None and tiling.scheme.mean is not None,
    )


def _without_height(plan: TilingPlan, contents: Sequence[RowsContent]) -> dict[str, int]:
    """Return the pixels of each scene that have data but no height, where there are any.

    Raises:
        HrrsiError: It is all of them.
    """
    counts: dict[str, tuple[str | None, int, int]] = {}
    for rows, content in zip(plan.rows, contents, strict=True):
        _, lacking, data = counts.get(rows.scene, (None, 0, 0))
        counts[rows.scene] = (
            rows.height,
            lacking + content.without_height,
            data + content.data_pixels,
        )
    for scene, (height, lacking, data) in counts.items():
        if lacking and lacking == data:
            raise HrrsiError(
                f"holds no height for any pixel of the scene {scene}",
                where=height,
                fix="name its own height model, check its CRS and nodata value, or leave the "
                "scene out of the split",
            )
    return {scene: lacking for scene, (_, lacking, _) in counts.items() if lacking}


def _measured(
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
            option = "--height" if name == "height" else "--bands"
            raise HrrsiError(
                f"{name} of the training scenes holds a single value",
                where="split train",
                fix=f"leave it out with {option}" if option == "--bands" else f"leave out {option}",
            )
    return mean, std


def _overlaps(plan: TilingPlan, contents: Sequence[RowsContent]) -> list[SceneOverlap]:
    gathered: dict[str, list[Fingerprints]] = {}
    for rows, content in zip(plan.rows, contents, strict=True):
        gathered.setdefault(rows.scene, []).extend(content.fingerprints)
    prints = {
        scene: np.unique(np.concatenate(pieces)) for scene, pieces in gathered.items() if pieces
    }
    by_pixels = overlaps_by_pixels(plan.footprints, prints)
    return overlaps_by_georeference(plan.footprints) + by_pixels
