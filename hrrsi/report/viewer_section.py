"""What the page shows of scenes: pictures, worst regions, and the data of the viewer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from hrrsi.classes import Colour
from hrrsi.evaluation.options import LabelKind
from hrrsi.evaluation.scene_counts import SceneCounts
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.report.figures import LETTERS, percent
from hrrsi.report.model_sections import EvaluatedMap
from hrrsi.report.scene_views import PALETTE_OFFSET, SceneView, palette_chunk

MOST_REGIONS = 6

# Okabe and Ito 2008, "Color Universal Design"; a pale grey in the place of black, which stands for
# no class here.
_OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (225, 225, 225),
)
# Nuñez, Anderton and Renslow 2018, "Optimizing colormaps": every fifteenth of 256 steps.
_CIVIDIS: tuple[Colour, ...] = (
    *((0, 34, 77), (0, 44, 103), (22, 54, 111), (46, 65, 108), (63, 75, 107), (78, 86, 108)),
    *((91, 96, 110), (104, 107, 113), (117, 117, 117), (131, 128, 120), (145, 140, 119)),
    *((160, 151, 117), (175, 163, 112), (190, 176, 106), (206, 188, 98), (223, 202, 86)),
    *((239, 216, 70), (253, 231, 55)),
)


def safe_palette(colours: Sequence[Colour]) -> tuple[Colour, ...]:
    """Return a colour for each class that colour-blind people can tell from the others.

    Up to eight classes get the colours of Okabe and Ito, each as near to its own as the others
    allow; more get steps of cividis (Nuñez et al. 2018), which differ in lightness.

    Args:
        colours: The scheme's class colours.
    """
    if len(colours) > len(_OKABE_ITO):
        return _lightness_steps(len(colours))
    own, safe = np.asarray(colours, dtype=float), np.asarray(_OKABE_ITO, dtype=float)
    distances = np.linalg.norm(own[:, None] - safe[None], axis=2)
    choices = np.array(list(permutations(range(len(safe)), len(own))))  # at most 40,320
    nearest = choices[distances[np.arange(len(own)), choices].sum(axis=1).argmin()]
    return tuple(_OKABE_ITO[index] for index in nearest)


def _lightness_steps(count: int) -> tuple[Colour, ...]:
    places, anchors = np.linspace(0, 1, len(_CIVIDIS)), np.asarray(_CIVIDIS)
    steps = np.linspace(0.05, 1, count)
    bands = [np.interp(steps, places, anchors[:, band]).round() for band in range(3)]
    return tuple((int(red), int(green), int(blue)) for red, green, blue in zip(*bands, strict=True))


@dataclass(frozen=True)
class WorstRegion:
    """A block of a scene in which many pixels are wrong.

    Attributes:
        row: First row of the block, in pixels of the scene.
        column: First column.
        side: Rows and columns of the block; the scene may end within it.
        wrong: Wrong pixels.
        share_of_errors: Of all wrong pixels of the scene, 0 to 1.
        accuracy: Share of the block's pixels that are right.
        predicted: Index of the class that the leading confusion takes another one for.
        true: Index of that other class.
        share_of_wrong: Of the block's wrong pixels, those of the leading confusion.
    """

    row: int
    column: int
    side: int
    wrong: int
    share_of_errors: float
    accuracy: float
    predicted: int
    true: int
    share_of_wrong: float


def worst_regions(
    counts: SceneCounts, labels: LabelKind, most: int = MOST_REGIONS
) -> tuple[WorstRegion, ...]:
    """Return the blocks with the most wrong pixels, the worst first.

    Args:
        counts: Of one scene.
        labels: Which labels are the truth.
        most: How many at most; blocks without a wrong pixel are none of them.
    """
    matrices = counts.matrices[labels]
    regions = []
    diagonal = np.eye(len(counts.classes), dtype=bool)
    by_class = matrices.counts[..., : len(counts.classes)]  # of labels that tell classes apart
    errors = np.where(diagonal, 0, by_class)
    wrong = errors.sum(axis=(1, 2))
    for index in np.argsort(-wrong, kind="stable")[:most]:
        if not wrong[index]:
            break
        row, column = matrices.places[index]
        predicted, true = np.unravel_index(int(errors[index].argmax()), diagonal.shape)
        regions.append(
            WorstRegion(
                row=row * matrices.block,
                column=column * matrices.block,
                side=matrices.block,
                wrong=int(wrong[index]),
                share_of_errors=float(wrong[index] / wrong.sum()),
                accuracy=float(1 - wrong[index] / by_class[index].sum()),
                predicted=int(predicted),
                true=int(true),
                share_of_wrong=float(errors[index].max() / wrong[index]),
            )
        )
    return tuple(regions)


def scenes(maps: Sequence[EvaluatedMap]) -> dict[str, Any] | None:
    """Return pictures and worst regions of every scene with views; None where there are none."""
    if not maps[0].views:
        return None
    result = maps[0].result
    names = result.evaluation.scenes
    lead = (
        "Swipe between the scene, its labels, the map and its errors: drag the divider, or focus "
        "it and use the arrow keys. The worst regions are one click away."
    )
    if len(maps[0].views) < len(names):
        lead += f" {len(maps[0].views)} of {len(names)} scenes have pictures."
    if result.protocol.labels != result.evaluation.labels:
        lead += (
            f" Pictures are of all labels; figures and worst regions are of {result.labels_text}."
        )
    return {
        "lead": lead,
        "classes": result.matrix.classes,
        "scenes": [_scene(maps, view) for view in maps[0].views],
    }


def viewer_data(maps: Sequence[EvaluatedMap]) -> dict[str, Any]:
    """Return what the viewer has to know, as plain data."""
    colours = maps[0].result.evaluation.colours
    return {
        "classes": list(maps[0].result.matrix.classes),
        "palette": {
            "offset": PALETTE_OFFSET,
            "official": _base64(palette_chunk(colours)),
            "safe": _base64(palette_chunk(safe_palette(colours))),
        },
        "scenes": [
            {
                "name": view.name,
                "width": view.width,
                "height": view.height,
                "step": view.step,
                "layers": [
                    {"key": key, "label": label, "kind": kind, "map": number}
                    for key, label, kind, number in _layers(maps, view)
                ],
            }
            for view in maps[0].views
        ],
    }


def class_colour_rules(colours: Sequence[Colour]) -> str:
    """Return style rules with the classes' own colours, and those that colour-blind people see."""
    names = range(len(colours))
    own, safe = (
        "".join(f"--class-{i}:rgb({r} {g} {b});" for i, (r, g, b) in enumerate(palette))
        for palette in (colours, safe_palette(colours))
    )
    rules = "".join(f".class-{i}{{--own:var(--class-{i})}}" for i in names)
    return f':root{{{own}}}:root[data-palette="safe"]{{{safe}}}{rules}'


def _layers(maps: Sequence[EvaluatedMap], view: SceneView) -> list[tuple[str, str, str, int]]:
    """Return key, label, kind and map of each layer of a scene."""
    layers = [("picture", "Scene", "picture", 0)] if view.picture is not None else []
    layers.append(("truth", "Truth", "classes", 0))
    for number, entry in enumerate(maps):
        if _view(entry, view.name) is not None:
            of = f" {LETTERS[number]}" if len(maps) > 1 else ""
            layers.append((f"prediction-{number}", f"Prediction{of}", "classes", number))
            layers.append((f"errors-{number}", f"Errors{of}", "errors", number))
    return layers


def _view(entry: EvaluatedMap, scene: str) -> SceneView | None:
    return next((view for view in entry.views if view.name == scene), None)


def _scene(maps: Sequence[EvaluatedMap], view: SceneView) -> dict[str, Any]:
    letters = LETTERS if len(maps) > 1 else " "
    counts = [
        next(s for s in m.result.evaluation.counts.scenes if s.name == view.name) for m in maps
    ]
    facts = [f"{view.width:,} by {view.height:,} px"]
    stills = []
    if view.picture is not None:
        alt = f"Picture of the scene {view.name}"
        stills.append(_still("picture", "Scene", alt, "jpeg", view.picture))
    truth = counts[0].matrices[maps[0].result.protocol.labels].matrix.counts.sum(axis=0)
    alt = f"True classes of the scene {view.name}: {_shares(truth.tolist(), counts[0])}"
    stills.append(_still("truth", "Truth", alt, "png", view.truth))
    regions = []
    for index, (entry, count) in enumerate(zip(maps, counts, strict=True)):
        labels = entry.result.protocol.labels
        matrix, of = count.matrices[labels].matrix, f" {letters[index]}".rstrip()
        scores = matrix.scores(entry.result.protocol)
        facts.append(
            f"OA{of} {percent(scores.overall_accuracy)} %, mIoU {percent(scores.mean_iou)} %"
        )
        own = _view(entry, view.name)
        if own is not None:
            alts = _alternatives(entry.name, view.name, matrix, count)
            stills.append(
                _still(f"prediction-{index}", f"Prediction{of}", alts[0], "png", own.prediction)
            )
            stills.append(_still(f"errors-{index}", f"Errors{of}", alts[1], "png", own.errors))
        worst = worst_regions(count, labels, MOST_REGIONS // len(maps))
        listed = [_region(region, view, count.classes) for region in worst]
        regions.append({"map": index, "of": of, "listed": listed})
    return {"name": view.name, "facts": facts, "stills": stills, "regions": regions}


def _alternatives(
    name: str, scene: str, matrix: ConfusionMatrix, counts: SceneCounts
) -> tuple[str, str]:
    """Return what prediction and errors show, in words."""
    wrong = 1 - matrix.right_pixels / matrix.pixels if matrix.pixels else float("nan")
    return (
        f"Classes that {name} predicts for {scene}: {_shares(counts.mapped.pixels, counts)}",
        f"Where {name} is wrong in {scene}: {percent(float(wrong))} % of the scored pixels",
    )


def _shares(pixels: Sequence[int], counts: SceneCounts) -> str:
    total = max(sum(pixels), 1)
    return ", ".join(
        f"{name} {100 * count / total:.0f} %"
        for name, count in zip(counts.classes, pixels, strict=True)
    )


def _still(key: str, caption: str, alt: str, kind: str, content: bytes) -> dict[str, str]:
    source = f"data:image/{kind};base64,{_base64(content)}"
    return {"key": key, "caption": caption, "alt": alt, "source": source}


def _region(region: WorstRegion, view: SceneView, classes: Sequence[str]) -> dict[str, str]:
    height = min(region.side, view.height - region.row)
    width = min(region.side, view.width - region.column)
    return {
        "box": f"{region.column},{region.row},{width},{height}",
        "errors": f"{100 * region.share_of_errors:.1f}",
        "confusion": f"{classes[region.true]} taken for {classes[region.predicted]}",
        "share": f"{100 * region.share_of_wrong:.0f}",
        "right": percent(region.accuracy),
        "column": f"{region.column:,}",
        "row": f"{region.row:,}",
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
