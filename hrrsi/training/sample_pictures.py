"""A few validation patches as the network maps them, as pictures, while it learns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hrrsi.classes import IGNORE_INDEX
from hrrsi.files import replacing
from hrrsi.runs.options import SAMPLES
from hrrsi.tiling.dataset import DatasetDescription, Patch, TiledDataset
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import PlainPatches, validation_patches
from hrrsi.training.patch_pictures import (
    RGB,
    Group,
    Key,
    class_keys,
    class_panel,
    natural_colours,
    panel_side,
    patch_picture,
    plain_swatch,
    ramp,
    ramp_swatch,
    resized,
    stretch_limits,
    striped_swatch,
    with_stripes,
)
from hrrsi.training.run_data import RunData, as_run_data

_PATCHES = 6
_LOOKED_AT = 200  # patches among which the shown ones are chosen, spread over all
_KEPT = 20
_NAME = re.compile(r"epoch_(\d+)\.png")
_WRONG = (255, 0, 110)
_PALE = 0.55  # how much white the image beneath the errors gets
_EDGE_RAMP, _SCORE_RAMP = "magma", "viridis"


class SamplePicture(NamedTuple):
    """A picture of an epoch, counted from 1."""

    epoch: int
    path: Path


class SamplePictures:
    """Draws a few validation patches whenever the mIoU is the best so far, and at the end.

    ``samples/epoch_0010.png`` has a row of panels a patch: image, truth, prediction, errors and,
    where the network has them, the probability of an edge and the score of the score-based
    fusion (mean of its channels). The patches are the same in every picture, and chosen so that
    they show as many classes as they can. At most 20 pictures are kept, spread over the epochs.

    Args:
        options: Options of the run.
        dataset: The dataset that it is trained on, or several as one.

    Attributes:
        latest: The last picture drawn, or None.
    """

    def __init__(self, options: TrainOptions, dataset: TiledDataset | RunData) -> None:
        self._options = options
        self._data = as_run_data(dataset)
        self._folder = options.run_folder / SAMPLES
        self._patches: list[Patch] | None = None
        self._best = -1.0
        self._best_epoch = 0
        self._epoch = 0
        self.latest: SamplePicture | None = None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the best mIoU so far and the epochs it goes with."""
        drawn = self.latest.epoch if self.latest else 0
        best = {"best": self._best, "best_epoch": self._best_epoch}
        return {**best, "epoch": self._epoch, "drawn": drawn}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned, and forget pictures of epochs after it."""
        self._best, self._best_epoch = float(state["best"]), int(state["best_epoch"])
        self._epoch, drawn = int(state["epoch"]), int(state["drawn"])
        self.latest = SamplePicture(drawn, self._path(drawn)) if drawn else None

    def draw_best(self, task: SegmentationTraining) -> None:
        """Draw the patches where the epoch is the best so far; the network is in eval mode."""
        self._epoch = task.epoch + 1
        miou = task.mean_iou
        if miou > self._best:
            self._best, self._best_epoch = miou, self._epoch
            self._draw(task)

    def draw_last(self, task: SegmentationTraining) -> None:
        """Draw the patches as the run leaves them, unless that was done already."""
        is_drawn = self.latest is not None and self.latest.epoch == self._epoch
        if not is_drawn and not self._path(self._epoch).exists():
            task.kept_network.eval()
            self._draw(task)

    def _draw(self, task: SegmentationTraining) -> None:
        if self._patches is None:
            self._patches = shown_patches(self._data, self._options)
        pairs = validation_patches(self._data, self._options)
        picture = _picture(self._patches, pairs, self._data.description, task, self._title())
        with replacing(self._path(self._epoch)) as temporary:
            picture.save(temporary, format="PNG")
        self._drop_some()
        self.latest = SamplePicture(self._epoch, self._path(self._epoch))

    def _title(self) -> str:
        epochs = self._options.recipe.epochs
        best = f"the best mIoU, {100 * self._best:.2f}, was that of epoch {self._best_epoch}"
        if self._best_epoch == self._epoch:
            best = f"mIoU {100 * self._best:.2f}, the best so far"
        return f"{self._options.model}, epoch {self._epoch}/{epochs}: {best}"

    def _path(self, epoch: int) -> Path:
        return self._folder / f"epoch_{epoch:04d}.png"

    def _drop_some(self) -> None:
        """Remove pictures of epochs to come, and those that leave the smallest gaps."""
        pictures = {
            int(match[1]): path
            for path in self._folder.iterdir()
            if (match := _NAME.fullmatch(path.name))
        }
        for epoch in [e for e in pictures if e > self._epoch]:
            pictures.pop(epoch).unlink()  # of a run that was resumed from before
        for epoch in dropped_epochs(sorted(pictures), self._best_epoch):
            pictures[epoch].unlink()


def dropped_epochs(epochs: Sequence[int], best: int, keep: int = _KEPT) -> list[int]:
    """Return the epochs to leave out so that few remain, spread out: not the first, last, best."""
    remaining, dropped = list(epochs), []
    while len(remaining) > max(keep, 3):
        inner = [i for i in range(1, len(remaining) - 1) if remaining[i] != best]
        index = min(inner, key=lambda i: remaining[i + 1] - remaining[i - 1])
        dropped.append(remaining.pop(index))
    return dropped


def shown_patches(
    dataset: TiledDataset | RunData, options: TrainOptions, count: int = _PATCHES
) -> list[Patch]:
    """Return the validation patches that show most of all classes, always the same.

    One after the other, the patch is taken that adds most to the sum, over the classes, of the
    square root of the area shown: a little of a class not seen yet is worth more than much of
    one that is.

    Args:
        dataset: A tiled dataset, or several as one.
        options: Of the run: where it overfits, the patches are those it trains on.
        count: How many to return at most.

    Raises:
        HrrsiError: A label can't be read.
    """
    data = as_run_data(dataset)
    patches = data.patches("train" if options.overfit else "val", options.overfit)
    patches = patches[:: -(-len(patches) // _LOOKED_AT)]
    labels = len(data.description.label_names)
    areas = []
    for patch in patches:
        label = data.read_label(patch)
        counts = np.bincount(label[label != IGNORE_INDEX], minlength=labels)
        areas.append(counts / label.size)
    shown, chosen = np.zeros(labels), []
    for _ in range(min(count, len(patches))):
        worth = [np.sqrt(shown + area).sum() for area in areas]
        best = max((i for i in range(len(patches)) if i not in chosen), key=lambda i: worth[i])
        chosen.append(best)
        shown += areas[best]
    return [patches[i] for i in sorted(chosen)]


def _picture(
    patches: Sequence[Patch],
    pairs: PlainPatches,
    description: DatasetDescription,
    task: SegmentationTraining,
    title: str,
) -> Any:
    pixels, labels = zip(*map(pairs.read, patches), strict=True)
    images = [image.transpose(2, 0, 1) for image in pixels]
    limits = stretch_limits(images)
    side = panel_side(description.patch_size)
    groups = []
    columns = ["image", "truth", "prediction", "errors"]
    keys = [
        *class_keys(description.label_names, description.label_colours),
        Key("ignored", striped_swatch()),
        Key("wrong", plain_swatch(_WRONG)),
    ]
    for patch, image, label in zip(patches, images, labels, strict=True):
        maps = _maps(task, image)
        predictions = maps["lbl"].argmax(0).astype(np.uint8)
        is_right = _right(label, predictions, description)
        colours = natural_colours(image, limits, side)
        panels = [
            colours,
            class_panel(label, description.label_colours, side),
            class_panel(predictions, description.colours, side),
            _errors(colours, label, is_right, side),
        ]
        if "edg" in maps:
            panels.append(ramp(1 / (1 + np.exp(-maps["edg"])), _EDGE_RAMP, side))
        if "scr" in maps:
            panels.append(ramp(maps["scr"].mean(0), _SCORE_RAMP, side))
        groups.append(Group(_caption(patch.name, label, is_right), [panels]))
    if "edg" in maps:
        columns.append("edge probability")
        keys.append(Key("edge probability, 0 to 1", ramp_swatch(_EDGE_RAMP)))
    if "scr" in maps:
        columns.append("score (1: body)")
        keys.append(Key("score of the fusion, 0 edge to 1 body", ramp_swatch(_SCORE_RAMP)))
    return patch_picture(groups, columns, keys, across=2 if len(columns) <= 4 else 1, title=title)


def _maps(task: SegmentationTraining, image: npt.NDArray[Any]) -> dict[str, Any]:
    """Return the maps of a patch (bands, size, size) as float32 arrays without a batch axis."""
    with torch.inference_mode():
        batch = torch.from_numpy(np.ascontiguousarray(image))[None].to(task.device)
        maps = task.kept_network(task.normalised(batch))
        return {name: values[0].float().cpu().numpy() for name, values in maps.items()}


def _right(
    label: npt.NDArray[np.uint8],
    predictions: npt.NDArray[np.uint8],
    description: DatasetDescription,
) -> npt.NDArray[np.bool_]:
    """Return where predictions are what the label says, or may say; ignored pixels count."""
    is_right: npt.NDArray[np.bool_] = label == IGNORE_INDEX
    for index, classes in enumerate(description.candidates):
        is_right |= (label == index) & np.isin(predictions, classes)
    return is_right


def _errors(
    image: RGB, label: npt.NDArray[np.uint8], is_right: npt.NDArray[np.bool_], side: int
) -> RGB:
    """Return the image in pale grey, with the wrong pixels in a colour of their own."""
    grey = image.mean(axis=-1, keepdims=True) * (1 - _PALE) + 255 * _PALE
    ignored = resized(label, side) == IGNORE_INDEX
    right = resized(is_right.astype(np.uint8), side)[..., None]
    panel = np.where(right, np.rint(grey), np.array(_WRONG)).astype(np.uint8)
    return with_stripes(panel, ignored)


def _caption(name: str, label: npt.NDArray[np.uint8], is_right: npt.NDArray[np.bool_]) -> str:
    labelled = label != IGNORE_INDEX
    if not labelled.any():
        return name
    return f"{name} ({100 * is_right[labelled].mean():.0f} % right)"
