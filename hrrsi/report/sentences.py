"""What a reader of scores has to know, in sentences: what was scored, how sure it is, a verdict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hrrsi import __version__
from hrrsi.evaluation.evaluation import Evaluation, MapFiles, MapSource
from hrrsi.evaluation.intervals import FEWEST_BLOCKS, Interval, counted_blocks
from hrrsi.evaluation.result import Comparison, EvaluationResult
from hrrsi.quantities import counted

_MUCH_LEFT_OUT = 0.01  # of the labelled pixels
# how much wider intervals over whole scenes are than those over blocks, to be told of
_MUCH_WIDER = 1.5


def ends_text(interval: Interval | None) -> str:
    """Return the ends of an interval of a share in percent, or a dash where it has none."""
    if interval is None or np.isnan(interval.low):
        return "-"
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def sentence(result: EvaluationResult) -> str:
    """Return everything a reader has to know to compare the figures, but for the scenes' names."""
    return f"{shared_sentence(result)}; {result.source.name}"


def shared_sentence(result: EvaluationResult) -> str:
    """Return the same, but for what made the map."""
    e = result.evaluation
    split = f", {e.split}" if e.split else ""
    parts = [
        f"{e.data}{split}: {extent(e)}",
        result.labels_text,
        result.protocol.sentence,
        # of maps that were there, it is not known
        *([] if e.unit == "maps" else [augmentation_text(e.augmentation)]),
        *e.reading,
    ]
    return "; ".join(parts)


def extent(evaluation: Evaluation) -> str:
    """Return what was evaluated, in words, but for the names of the scenes."""
    e, scenes = evaluation, counted(len(evaluation.scenes), "scene")
    if e.unit == "patches":
        return f"patches of {e.window} px of {scenes}, each seen on its own"
    if e.unit == "maps":
        return f"{scenes}, whole, maps as given"
    return f"{scenes}, whole, stitched from windows of {e.window} px that overlap by {e.overlap} px"


def augmentation_text(name: str) -> str:
    """Return a test-time augmentation in words."""
    return "no test-time augmentation" if name == "none" else f"test-time augmentation {name}"


def source_sentence(source: MapSource) -> str:
    """Return what made a map, so that it can be made again."""
    if isinstance(source, MapFiles):
        paths = source.paths
        return f"maps {', '.join(paths)}" if len(paths) > 1 else f"map {paths[0]}"
    return (
        f"weights: {source.words}, sha256 {source.sha256}, run by hrrsi {__version__} with "
        f"{source.engine} on {source.device} in precision {source.precision}"
    )


def blocks_text(result: EvaluationResult) -> str:
    """Return what intervals are drawn from."""
    size = result.evaluation.counts.scenes[0].matrices[result.protocol.labels].block
    return f"{counted(result.counted_blocks, 'block')} of {size} px"


def scenes_text(outcome: EvaluationResult | Comparison) -> str:
    """Return how much wider intervals over whole scenes are; empty where they are not.

    Of OA, and of the class whose IoU's interval widens most.

    Args:
        outcome: An evaluation, or a comparison, of which the intervals of differences count.
    """
    if isinstance(outcome, Comparison):
        of_blocks = {name: d.interval for name, d in outcome.differences.items()}
        of_scenes = {name: d.interval for name, d in outcome.scene_differences.items()}
    else:
        of_blocks, of_scenes = outcome.intervals, outcome.scene_intervals
    ratios = {
        name: (interval.high - interval.low) / (of_blocks[name].high - of_blocks[name].low)
        for name, interval in of_scenes.items()
        if of_blocks[name].high > of_blocks[name].low and not np.isnan(interval.low)
    }
    classes = [name for name in ratios if name.startswith("IoU ")]
    names = ["OA", *sorted(classes, key=ratios.__getitem__)[-1:]]
    ends = [
        f"that of {name} is {ends_text(of_scenes[name])}, not {ends_text(of_blocks[name])}"
        for name in names
        if ratios.get(name, 0) >= _MUCH_WIDER
    ]
    if not ends:
        return ""
    return (
        f"over whole scenes instead of blocks, {' and '.join(ends)}, since errors go together in "
        "scenes; larger blocks make all intervals so"
    )


def left_out_warning(result: EvaluationResult) -> str:
    """Return a warning where much is not scored because nothing is predicted there; else ""."""
    left_out = int(result.matrix.unpredicted.sum())
    labelled = result.matrix.pixels + left_out
    if left_out < _MUCH_LEFT_OUT * labelled:
        return ""
    return (
        f"Scored on {100 * result.matrix.pixels / labelled:.2f} % of the labelled pixels only: "
        f"nothing is predicted on the other {left_out:,}."
    )


def unscored_text(result: EvaluationResult) -> str:
    """Return how many pixels no score counts, and why."""
    e, matrix = result.evaluation, result.matrix
    why = "without a label"
    if e.unit == "patches":
        why += ", repeated where patches overlap, or padding"
    parts = [f"{e.unlabelled_pixels:,} pixels {why}"]
    if e.unknown_pixels:
        which = "in and outside of the area" if e.outside_pixels else "of them"
        parts[0] += f" ({e.unknown_pixels:,} {which} with one that the scheme doesn't know)"
    if result.protocol.labels == "eroded" and e.labels == "full":
        full = e.counts.matrix("full")
        at_borders = full.pixels + full.unpredicted.sum() - matrix.pixels
        parts.append(f"{int(at_borders - matrix.unpredicted.sum()):,} at borders of classes")
    heights = any(words.startswith("heights ") for words in e.reading)
    holder = "the map" if e.unit == "maps" else "the image"
    holder += " or the height model" if heights else ""
    unpredicted = int(matrix.unpredicted.sum())
    values = "no data"
    if e.unit == "maps" and "unknown labels ignored" in e.reading:
        values += " or a value that the scheme doesn't know"
    if e.is_compared:
        holder += " or the one that it is compared with"
    parts.append(f"{unpredicted:,} labelled pixels where {holder} holds {values}")
    if e.outside_pixels:
        parts.append(f"{e.outside_pixels:,} pixels outside of the area of interest")
    return ", ".join(parts)


def partial_text(result: EvaluationResult) -> str:
    """Return how partial labels count; empty where there are none."""
    matrix = result.matrix
    pixels = int(matrix.partial.sum())
    if not pixels:
        return ""
    right = int(matrix.partial[:, 0].sum())
    return (
        f"{pixels:,} of the scored pixels have a label that stands for several classes, and "
        f"{100 * right / pixels:.2f} % of them are predicted as one of these: they count in OA, "
        "and as false positives where they are not; kappa and calibration have no figures then"
    )


def mean_words(result: EvaluationResult) -> str:
    """Return which classes means are of."""
    left_out = result.classes_left_out_of_means
    return f"mean without {' and '.join(left_out)}" if left_out else "mean"


def verdict(comparison: Comparison, wording: Callable[[str], str] = str) -> str:
    """Return whether the mIoU tells the two maps (A and B) apart, as a sentence.

    Args:
        comparison: The two.
        wording: Says the library's parameters, which stand between backticks, in other words,
            e.g. as flags of a command.
    """
    difference, blocks = comparison.differences["mIoU"], blocks_text(comparison.first)
    if np.isnan(difference.interval.low):
        if counted_blocks(comparison.blocks[0]) >= FEWEST_BLOCKS:
            blocks = f"fewer than {FEWEST_BLOCKS} of {blocks} that hold the rarest class"
        return wording(
            f"With {blocks}, A and B can't be told apart: take more scenes, or a smaller `block`."
        )
    sure = f"p = {difference.p:.4f}, {blocks}"
    if not difference.is_significant:
        return f"By mIoU, A and B can't be told apart on these scenes ({sure})."
    better = "B" if difference.interval.value > 0 else "A"
    return f"By mIoU, {better} is better on these scenes ({sure})."


def unequal_pixels_text(comparison: Comparison) -> str:
    """Return which labelled pixels only one of the two predicts, as a sentence; "" where none."""
    uncompared = [
        r.evaluation.uncompared_pixels or 0 for r in (comparison.second, comparison.first)
    ]
    if any(uncompared):  # maps that were there: scored where both predict
        return (
            f"A leaves out {uncompared[0]:,} labelled pixels that B maps, and B {uncompared[1]:,} "
            "that A maps; none of them counts."
        )
    first, second = (blocks.sum(axis=1) for blocks in comparison.blocks)  # the truth of each block
    difference = int(np.abs(second - first).sum())
    return f"{difference:,} pixels are scored of one of the two only." if difference else ""


def printable(text: str) -> str:
    """Return a text with question marks for what of files' names is no text."""
    return text.encode("utf-8", "replace").decode("utf-8")
