"""What a tiled dataset holds, as a table and lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prettytable import PrettyTable

from hrrsi.labels.splits import Part, SceneSplit
from hrrsi.tiling.dataset import DatasetDescription
from hrrsi.tiling.scene_overlap import SceneOverlap
from hrrsi.tiling.tile import TiledScenes

_SHOWN = 10  # lines of one kind, before the rest is only counted


def content_table(description: DatasetDescription) -> str:
    """Return a table of scenes, patches and class shares of each part.

    Class shares are of the labelled pixels, the ignored share of all pixels.
    """
    table = PrettyTable(["split", "scenes", "patches", *description.classes, "ignored"])
    table.align = "r"
    table.align["split"] = "l"
    for part, content in description.splits.items():
        labelled = sum(content.class_pixels)
        shares = [_percent(n, labelled) for n in content.class_pixels]
        ignored = _percent(content.ignored_pixels, labelled + content.ignored_pixels)
        name = part if content.labels == "full" else f"{part} (eroded labels)"
        table.add_row([name, len(content.scenes), content.patches, *shares, ignored])
    return (
        f"{table.get_string()}\n"
        "Shares of classes are of the labelled pixels, of ignored of all pixels."
    )


def planned_table(split: SceneSplit, patches: Mapping[Part, int]) -> str:
    """Return a table of scenes and patches of each part, of a run that has not been made."""
    table = PrettyTable(["split", "scenes", "patches"])
    table.align = "r"
    table.align["split"] = "l"
    for part, names in split.parts.items():
        if names:
            table.add_row([part, len(names), patches[part]])
    text: str = table.get_string()
    return text


def split_notes(split: SceneSplit) -> list[str]:
    """Return what a person should know about how scenes were split."""
    notes = []
    if split.taken:
        notes.append(
            f"note: the split {split.name} names no validation scenes: "
            f"{', '.join(split.taken)} taken from training"
        )
    elif not split.val:
        notes.append("warning: no scene is left for validation; training needs some to choose by")
    if split.absent:
        notes.append(
            f"warning: the split {split.name} names scenes that were not found: "
            f"{_few(split.absent)}"
        )
    if split.left_out:
        notes.append(
            f"note: left out, since the split {split.name} does not name them: "
            f"{_few(split.left_out)}"
        )
    return notes


def overlap_notes(overlaps: Sequence[SceneOverlap]) -> list[str]:
    """Return a warning for each pair of overlapping scenes, the first ten of them."""
    notes = [f"warning: {overlap}" for overlap in overlaps[:_SHOWN]]
    if len(overlaps) > _SHOWN:
        notes.append(f"warning: {len(overlaps) - _SHOWN} more pairs of scenes overlap")
    return notes


def content_notes(made: TiledScenes) -> list[str]:
    """Return what a person should know about what was tiled."""
    notes = overlap_notes(made.overlaps)
    description = made.description
    if made.alpha_band is not None:
        listed = ",".join(map(str, sorted([*description.bands, made.alpha_band])))
        notes.append(
            f"note: the scenes call band {made.alpha_band} alpha, so it is no band of the patches; "
            f"--bands {listed} takes it as imagery"
        )
    if made.unused_statistics:
        notes.append(
            f"note: mean and std were measured, since those of the scheme {description.scheme} are "
            "of its first bands as uint8 at 255"
        )
    if made.estimated_scale is not None:
        value, reason = made.estimated_scale
        notes.append(
            f"note: {value:g} counts as full brightness ({reason}), unless --scale says otherwise"
        )
    if made.without_height:
        scenes = [f"{scene} {count}" for scene, count in made.without_height.items()]
        notes.append(
            f"note: {sum(made.without_height.values())} pixels without height ignored, by scene: "
            f"{_few(scenes)}"
        )
    if made.unknown_pixels:
        scenes = [f"{scene} {count}" for scene, count in made.unknown_pixels.items()]
        notes.append(
            f"warning: {sum(made.unknown_pixels.values())} pixels of unknown label ignored, "
            f"by scene: {_few(scenes)}"
        )
    if made.dropped:
        notes.append(f"note: {made.dropped} patches without any labelled pixel left out")
    for part, content in description.splits.items():
        if not content.patches:
            notes.append(f"warning: no patch of {part} has a labelled pixel")
    train = description.splits["train"].class_pixels
    present = [name for name, n in zip(description.classes, train, strict=True) if n]
    absent = [name for name in description.classes if name not in present]
    if len(present) == 1:
        notes.append(f"warning: the training labels hold one class only ({present[0]})")
    elif absent:
        notes.append(f"warning: no training pixel is labelled {', '.join(absent)}")
    return notes


def _few(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
