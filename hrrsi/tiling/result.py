"""What a tiling run made, as tables and lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hrrsi.labels.splits import ALL_TRAIN, NO_LABELS, Part, SceneSplit
from hrrsi.quantities import TextTable, counted, counted_names, length_text
from hrrsi.scenes.missing_data import UndeclaredGap
from hrrsi.scenes.resampling import resolution_step
from hrrsi.scenes.value_scale import EstimatedScale
from hrrsi.tiling.dataset import DatasetDescription
from hrrsi.tiling.scene_overlap import SceneOverlap

_LABELS = {"eroded": "eroded labels", "none": "no labels"}
_SAME_RESOLUTION = 1.1  # a geographic CRS makes them differ by a little
MUCH_IGNORED = 0.3  # of the training pixels
_MOST_LINES = 10  # of one kind, before the rest is only counted


@dataclass(frozen=True)
class SceneBands:
    """What is known of the bands of scenes.

    Attributes:
        bands: The 1-based bands that patches hold of scenes that don't name theirs.
        meanings: What they show, as `hrrsi.scenes.bands.band_meanings` calls it, or None.
        alpha_band: The first band that the scenes call alpha, which was left out unasked; or None.
        imagery_alphas: Scenes whose alpha holds values of imagery, and masks nothing.
        named: The bands of scenes that name them in another order.
    """

    bands: tuple[int, ...]
    meanings: tuple[str | None, ...] | None
    alpha_band: int | None
    imagery_alphas: tuple[str, ...]
    named: dict[str, tuple[int, ...]]

    @property
    def notes(self) -> list[str]:
        """What a person should know of them: lines that start with what they are."""
        notes = []
        if self.alpha_band is not None:
            listed = ",".join(map(str, sorted([*self.bands, self.alpha_band])))
            notes.append(
                f"note: the scenes call band {self.alpha_band} alpha, so it is no band of the "
                f"patches; `bands={listed}` takes it as imagery"
            )
        if self.imagery_alphas:
            notes.append(
                "warning: what they call alpha holds as many values as imagery does (near "
                f"infrared?), so it masks nothing: {counted_names(self.imagery_alphas)}"
            )
        if self.named:
            names = [f"{scene} ({','.join(map(str, b))})" for scene, b in self.named.items()]
            notes.append(
                f"note: bands are read as {', '.join(map(str, self.meanings or ()))}, which scenes "
                f"name in another order: {counted_names(names)}; `bands` chooses others"
            )
        return notes


@dataclass(frozen=True)
class TilingResult:
    """What a tiling run made.

    Attributes:
        description: What ``dataset.yaml`` says.
        split: Which scenes train, validate and test.
        empty_patches: Patches left out because none of their pixels has a class.
        unknown_pixels: Pixels by scene whose label the scheme doesn't know.
        overlaps: Scenes of different parts that show the same ground.
        estimated_scale: Which value was taken for full brightness, and why, where neither the
            scenes nor the caller said it; else None.
        without_height: Pixels by scene that are ignored because they have no height.
        scene_notes: What a person should know of the scenes, known before they are cut: lines that
            start with what they are.
        ignores_255: Whether labels are class indices, of which 255 is ignored unasked, and nothing
            has told of it yet.
        counts_by_position: Whether labels are class indices by the position of classes.
        ignores_outside: Whether labels are polygons, outside of which everything is ignored.
        unused_statistics: Whether the scheme has a mean and std, of other bands or values.
    """

    description: DatasetDescription
    split: SceneSplit
    empty_patches: int
    unknown_pixels: dict[str, int]
    overlaps: list[SceneOverlap]
    estimated_scale: EstimatedScale | None
    without_height: dict[str, int]
    scene_notes: list[str]
    ignores_255: bool
    counts_by_position: bool
    ignores_outside: bool
    unused_statistics: bool

    @property
    def table(self) -> str:
        """Scenes, patches and class shares of each part.

        Class shares are of the labelled pixels, the ignored share of all pixels.
        """
        description = self.description
        table = _table([*description.label_names, "ignored"])
        for part, content in description.splits.items():
            labelled = sum(content.label_pixels)
            shares = [_percent(n, labelled) for n in content.label_pixels]
            ignored = _percent(content.ignored_pixels, labelled + content.ignored_pixels)
            name = part if content.labels == "full" else f"{part} ({_LABELS[content.labels]})"
            table.add_row([name, len(content.scenes), content.patches, *shares, ignored])
        return f"{table}\nShares of classes are of the labelled pixels, of ignored of all pixels."

    @property
    def notes(self) -> list[str]:
        """What a person should know of it: lines that start with what they are, ``warning: ``."""
        return [
            *split_notes(self.split),
            *overlap_notes(self.overlaps),
            *self._band_notes(),
            *self._pixel_notes(),
            *self._class_notes(),
        ]

    def _band_notes(self) -> list[str]:
        notes = [*self.scene_notes]
        if self.unused_statistics:
            notes.append(
                "note: mean and std were measured, since those of the scheme "
                f"{self.description.scheme} are of its first bands as uint8 at 255"
            )
        if self.estimated_scale is not None:
            notes.append(scale_note(self.estimated_scale))
        return notes

    def _pixel_notes(self) -> list[str]:
        notes = []
        if self.without_height:
            notes.append(
                f"note: {sum(self.without_height.values())} pixels without height ignored, by "
                f"scene: {_by_scene(self.without_height)}"
            )
        if self.unknown_pixels:
            notes.append(
                f"warning: {sum(self.unknown_pixels.values())} pixels of unknown label ignored, "
                f"by scene: {_by_scene(self.unknown_pixels)}"
            )
        train = self.description.splits["train"]
        pixels = train.ignored_pixels + sum(train.label_pixels)
        is_labelled = not self.description.is_unlabelled
        if self.ignores_255 and is_labelled and train.ignored_pixels > MUCH_IGNORED * pixels:
            share = train.ignored_pixels / pixels
            notes.append(
                f"warning: {share:.0%} of the training pixels have no class: "
                "255 in labels of class indices is ignored; if it stands for a class (0 and 255 in "
                "a mask), give that `index: 255` in the scheme"
            )
        if self.empty_patches:
            noun = "data" if self.description.is_unlabelled else "labelled pixel"
            notes.append(f"note: {self.empty_patches} patches without any {noun} left out")
        return notes

    def _class_notes(self) -> list[str]:
        description = self.description
        notes = [
            f"warning: no patch of {part} has a labelled pixel"
            for part, content in description.splits.items()
            if not content.patches
        ]
        if description.is_unlabelled:
            return notes
        train = description.splits["train"].label_pixels
        present = [name for name, n in zip(description.label_names, train, strict=True) if n]
        possible = {*present}
        for label in description.partial:
            if label.name in present:
                possible.update(label.classes)
        absent = [name for name in description.classes if name not in possible]
        if len(present) == 1:
            has_note = any("is the only class" in note for note in self.scene_notes)
            outside = (
                ", and what lies outside of their polygons is ignored; `background=NAME` makes a "
                "class of it"
            )
            notes.append(
                f"warning: the training labels hold one class only ({present[0]})"
                + (outside if self.ignores_outside and not has_note else "")
            )
        elif absent:
            is_first = self.counts_by_position and description.classes[0] in absent
            hint = "; if labels count from 1, give classes their `index`" if is_first else ""
            notes.append(f"warning: no training pixel is labelled {', '.join(absent)}{hint}")
        return notes


def scale_note(estimate: EstimatedScale) -> str:
    """Return the line that says which value was taken for full brightness."""
    return (
        f"note: {estimate.value:g} counts as full brightness ({estimate.reason}), unless `scale` "
        "says otherwise"
    )


def resolution_notes(resolutions: Mapping[str, float], resolution: float | None) -> list[str]:
    """Return a line where scenes differ in their ground resolution, or are brought to another.

    Args:
        resolutions: Metres a pixel of each scene that has a known resolution.
        resolution: That to which they are brought, or None.
    """
    if not resolutions:
        return []
    fine, coarse = (choose(resolutions, key=resolutions.__getitem__) for choose in (min, max))
    if resolution is not None:
        return _resampling_notes(resolutions, resolution)
    if resolutions[coarse] <= _SAME_RESOLUTION * resolutions[fine]:
        return []
    most = sum(length > _SAME_RESOLUTION * resolutions[fine] for length in resolutions.values())
    return [
        f"warning: scenes differ in their ground resolution: {fine} has "
        f"{length_text(resolutions[fine])} a pixel, {coarse} {length_text(resolutions[coarse])} "
        f"({most} of {len(resolutions)} scenes are coarser than {fine}); patches keep them: bring "
        f"them to one with `resolution={resolutions[coarse]:.3g}`, or tile them apart and train on "
        "both (`hrrsi.train(mix)`)"
    ]


def _resampling_notes(resolutions: Mapping[str, float], resolution: float) -> list[str]:
    steps = {scene: resolution_step(own, resolution) or 1.0 for scene, own in resolutions.items()}
    kinds = (
        ("means by area", {scene for scene, step in steps.items() if step > 1}),
        ("interpolated, so no sharper", {scene for scene, step in steps.items() if step < 1}),
    )
    parts = []
    for how, scenes in kinds:
        if scenes:
            lengths = sorted(resolutions[scene] for scene in scenes)
            texts = dict.fromkeys(length_text(length) for length in (lengths[0], lengths[-1]))
            parts.append(f"{counted(len(scenes), 'scene')} of {' to '.join(texts)} ({how})")
    if not parts:
        return []
    return [f"note: brought to {length_text(resolution)} a pixel: {' and '.join(parts)}"]


def placement_notes(placements: Mapping[str, str]) -> list[str]:
    """Return a line on labels that don't lie on their scenes pixel by pixel.

    Args:
        placements: How they lie, by scene.
    """
    kinds: dict[str, list[tuple[str, str]]] = {}
    for scene, words in placements.items():
        kinds.setdefault(words.partition(":")[0].partition(" (")[0], []).append((scene, words))
    lines = []
    for alike in kinds.values():
        scene, words = alike[0]
        rest = f" (so do, or nearly, {len(alike)} labels in all)" if len(alike) > 1 else ""
        lines.append(f"warning: the label of {scene} {words}{rest}")
    return lines


def gap_notes(gaps: Mapping[str, UndeclaredGap], *, are_missing: bool) -> list[str]:
    """Return a line on scenes of which pixels seem to hold no data, though nothing says so.

    Args:
        gaps: What was found, by scene.
        are_missing: Whether it counts as missing data.
    """
    if not gaps:
        return []
    scene, gap = max(gaps.items(), key=lambda item: item[1].share)
    values = ",".join(sorted({f"{entry.value:g}" for entry in gaps.values()}))
    rest = f", {len(gaps)} scenes in all" if len(gaps) > 1 else ""
    if are_missing:
        return [
            f"note: pixels of {values} in all bands count as missing data, as `nodata=auto` found "
            f"({gap.share:.1%} of {scene}{rest})"
        ]
    return [
        f"warning: {gap.share:.1%} of the pixels of {scene} hold {gap.value:g} in all bands, at "
        f"the rim or in empty blocks, as if they had no data{rest}; they keep their labels, and "
        f"count in mean and std, unless `nodata={gap.value:g}` or `nodata=auto` is given"
    ]


def planned_table(split: SceneSplit, patches: Mapping[Part, int]) -> str:
    """Return a table of scenes and patches of each part, of a run that has not been made."""
    table = _table([])
    for part, names in split.parts.items():
        if names:
            table.add_row([part, len(names), patches[part]])
    return str(table)


def split_notes(split: SceneSplit) -> list[str]:
    """Return what a person should know about how scenes were split."""
    notes = []
    if split.val_from_train:
        notes.append(
            f"note: the split {split.name} names no validation scenes: "
            f"{', '.join(split.val_from_train)} taken from training"
        )
    elif split.name == NO_LABELS:
        notes.append(
            "note: no scene has a label: all of them train, by teachers, and beside data with "
            "labels to validate on"
        )
    elif split.name == ALL_TRAIN:
        notes.append(
            "note: everything trains, and nothing validates or tests; `split_blocks=70,15,15` "
            "splits it into spatial blocks"
        )
    elif not split.val:
        notes.append("warning: no scene is left for validation; training needs some to choose by")
    if split.unmatched_patterns:
        notes.append(
            f"warning: the split {split.name} names scenes that were not found: "
            f"{counted_names(split.unmatched_patterns, _MOST_LINES)}"
        )
    if split.unused_scenes:
        notes.append(
            f"note: left out, since the split {split.name} does not name them: "
            f"{counted_names(split.unused_scenes, _MOST_LINES)}"
        )
    return notes


def overlap_notes(overlaps: Sequence[SceneOverlap]) -> list[str]:
    """Return a warning for each pair of overlapping scenes, the first ten of them."""
    notes = [f"warning: {overlap}" for overlap in overlaps[:_MOST_LINES]]
    if len(overlaps) > _MOST_LINES:
        notes.append(f"warning: {len(overlaps) - _MOST_LINES} more pairs of scenes overlap")
    return notes


def _table(columns: Sequence[str]) -> TextTable:
    return TextTable(["split", "scenes", "patches", *columns])


def _by_scene(counts: Mapping[str, int]) -> str:
    return counted_names([f"{scene} {count}" for scene, count in counts.items()], _MOST_LINES)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
