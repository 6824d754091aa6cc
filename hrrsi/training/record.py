"""What a training run says and writes after an epoch, curves among it; its best epoch by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from prettytable import PrettyTable

from hrrsi.classes import Colour
from hrrsi.labels.splits import Part
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_file import BEST_WEIGHTS
from hrrsi.runs.failures import SharedError
from hrrsi.runs.record import (
    CurvePanels,
    EpochRecord,
    TensorBoardLog,
    set_from_zero,
    set_logarithmic,
    set_percent,
    training_losses,
)
from hrrsi.scenes.likeness import Likeness
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.likeness import training_likeness
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import ZOOMS, TrainOptions
from hrrsi.training.sample_pictures import SamplePictures

_PROTOCOL = "every class counts, no test-time augmentation"
# Of TrainOptions: what the weights can't tell, and says nothing of the machine's folders.
_SETTINGS = ("freeze_encoder", "seed", "patience", "precision", "devices", "nodes", "compile")
_SCORES = (("val_OA", "OA"), ("val_mF1", "mF1"), ("val_mIoU", "mIoU"))
_LIGHT = 0.4  # a relative luminance that stands out from white by a contrast of 2.3


class RunRecord(EpochRecord):
    """Keeps the metrics of the epochs, and writes them, curves, pictures and the best weights.

    Beside what every `EpochRecord` holds, a row has the learning rate after the epoch's last
    step, the mean of each loss, the segmentation loss of the validation patches, OA, mF1, mIoU
    and each class' IoU. At the run's end, the best epoch's IoU of each class is reported.

    Args:
        options: Options of the run.
        dataset: The dataset that it is trained on.
        report: Called with a line an epoch, and with a table at the end.
        is_first: Whether this is the process that writes.
    """

    _options: TrainOptions

    def __init__(
        self,
        options: TrainOptions,
        dataset: TiledDataset,
        report: Callable[[str], None],
        *,
        is_first: bool = True,
    ) -> None:
        super().__init__(options, "val_mIoU", report, options.patience)
        self._dataset = dataset
        self._description = dataset.description
        patches = len(dataset.patches("train")[: options.overfit or None])
        batch = min(options.recipe.batch, patches)
        self._trained_patches = patches // batch * batch
        self._is_first = is_first
        self._samples = SamplePictures(options, dataset)
        self._tensorboard = TensorBoardLog(options.run_folder)

    def close(self) -> None:
        """Close TensorBoard's file."""
        self._tensorboard.close()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {**super().state(), "samples": self._samples.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        super().load_state(state)
        self._samples.load_state(state["samples"])

    def see(self, split: str, batch: Any) -> None:
        """Look at a batch, of which there is nothing to say."""

    def end_validation(self, task: SegmentationTraining) -> None:
        """Draw the sample pictures of an epoch that is the best so far.

        Raises:
            SharedError: No pixel was validated, or none was trained on, whatever dataset.yaml says
                of the labels.
        """
        overfit, data = self._options.overfit, self._options.data
        if not task.matrix.pixels:
            raise SharedError(
                "no pixel validated on has a label, so no weights are the best",
                where=data / ("train" if overfit else "val"),
                fix="give a higher `overfit`" if overfit else "tile validation scenes with labels",
            )
        if not self.rows and task.losses["loss"] == 0:  # ignored pixels alone cost nothing
            raise SharedError(
                "no pixel trained on has a label, so there is nothing to learn",
                where=data / "train",
                fix="tile training scenes with labels",
            )
        if self._is_first:
            self._samples.draw_best(task)

    def end_epoch(self, task: SegmentationTraining, learning_rate: float) -> None:
        """Add a row to the metrics, and report it; show it in TensorBoard.

        Args:
            task: What was trained and validated.
            learning_rate: That of the step to come.
        """
        super().end_epoch(task, learning_rate)
        if self._is_first:
            self._tensorboard.add(self._rows[-1])
            self._show_picture()

    def end(self, task: SegmentationTraining) -> None:
        """Report the best epoch's IoU of each class, and draw the network as the run leaves it."""
        if self._is_first:
            self._report(self._class_table())
            self._samples.draw_last(task)
            self._show_picture()

    def _show_picture(self) -> None:
        picture = self._samples.latest
        if picture is not None:
            self._tensorboard.add_picture(picture.epoch, picture.path)

    def _images(self, task: SegmentationTraining) -> int:
        return self._trained_patches

    def _metrics(self, task: SegmentationTraining, learning_rate: float) -> dict[str, float]:
        scores = task.matrix.scores()
        return {
            "lr": learning_rate,
            **task.losses,
            "val_seg_loss": task.validation_loss,
            "val_OA": scores.overall_accuracy,
            "val_mF1": scores.mean_f1,
            "val_mIoU": scores.mean_iou,
            **{f"val_IoU_{c.name}": c.iou for c in scores.classes},
        }

    def _summary(self, row: dict[str, float]) -> str:
        losses = [f"{key.removesuffix('_loss')} {row[key]:.3f}" for key in training_losses(row)]
        validated = "train" if self._options.overfit else "val"
        return (
            f"{' '.join(losses)} | {validated} mIoU {100 * row['val_mIoU']:.2f} "
            f"OA {100 * row['val_OA']:.2f} segmentation {row['val_seg_loss']:.3f}"
        )

    def _write_best(self, task: SegmentationTraining, row: dict[str, float]) -> None:
        weights = task.kept_network.state_dict()
        teachers = [] if task.teachers is None else task.teachers.sources
        meta = self._meta(row, teachers)
        save_weights(weights, meta, self._options.run_folder / BEST_WEIGHTS)

    def _write_curves(self, path: Path) -> None:
        description = self._description
        colours = dict(zip(description.classes, description.colours, strict=True))
        write_curves(self._rows, colours, path)

    def _class_table(self) -> str:
        best = self.best
        table = PrettyTable(["class", "IoU"])
        for name in self._description.classes:
            iou = best[f"val_IoU_{name}"]
            table.add_row([name, "-" if math.isnan(iou) else f"{100 * iou:.2f}"])
        table.align["class"], table.align["IoU"] = "l", "r"
        validated = "training patches" if self._options.overfit else "validation"
        return f"epoch {best['epoch']:.0f}, the best, {validated}, in percent:\n{table}"

    def _meta(self, row: Mapping[str, float], teachers: Sequence[Mapping[str, Any]]) -> ModelMeta:
        description, options = self._description, self._options
        resolution = description.resolution
        validated: Part = "train" if options.overfit else "val"
        return ModelMeta(
            model=options.model,
            classes=description.classes,
            colours=description.colours,
            bands=description.bands,
            dtype=description.dtype,
            scale=description.scale,
            mean=description.mean,
            std=description.std,
            resolution=None if resolution == "unknown" else resolution,
            scheme=description.scheme,
            training={
                "data": description.scheme,
                "scenes": description.splits["train"].scenes,
                "patches": options.overfit or description.splits["train"].patches,
                "patch_size": description.patch_size,
                **options.recipe.to_config(),
                # the file of `init` holds an encoder, so no other weights are read
                "encoder_weights": None if options.init else Path(options.encoder_weights).name,
                "init": options.init_file and options.init_file.name,
                **({"teachers": list(teachers)} if teachers else {}),
                **{name: getattr(options, name) for name in _SETTINGS},
                "images_seen": int(row["images_seen"]),
                "epoch": int(row["epoch"]),
            },
            scores={
                "validation": {
                    "protocol": ("training patches, " if options.overfit else "patches, ")
                    + _PROTOCOL,
                    "scenes": description.splits[validated].scenes,
                    "OA": _defined(row["val_OA"]),
                    "mF1": _defined(row["val_mF1"]),
                    "mIoU": _defined(row["val_mIoU"]),
                    "IoU": {name: _defined(row[f"val_IoU_{name}"]) for name in description.classes},
                }
            },
            licence="",
            height=description.height is not None,
            resolutions=self._resolutions(),
            likeness=None if self._likeness is None else self._likeness.to_plain(),
        )

    def _resolutions(self) -> tuple[float, float] | None:
        """Return the metres per pixel that the network saw, scaled patches included."""
        drawn = self._options.recipe.to_config().get("resolutions")
        if drawn is not None and not self._options.overfit:
            return drawn[0], drawn[1]
        resolution = self._description.resolution
        if resolution == "unknown":
            return None
        smallest, largest = (
            (1.0, 1.0) if self._options.overfit else ZOOMS[self._options.recipe.augmentation]
        )
        return float(f"{resolution / largest:.4g}"), float(f"{resolution / smallest:.4g}")

    @cached_property
    def _likeness(self) -> Likeness | None:
        return training_likeness([self._dataset], self._options.overfit)


def write_curves(
    epochs: Sequence[Mapping[str, float]], colours: Mapping[str, Colour], path: Path
) -> None:
    """Draw losses, validation scores, each class' IoU and the learning rate as a PNG.

    Losses are on a logarithmic axis, since they fall by parts and not by amounts; that of the
    validation is dashed, in the colour of the training's. Classes have the colours of their
    scheme, light ones a dark outline. The epoch of the highest mIoU, whose weights are kept, is
    marked everywhere.

    Args:
        epochs: The rows of ``metrics.csv``.
        colours: The colour of each class.
        path: The picture; replaced where it exists.
    """
    panels = CurvePanels(epochs, "val_mIoU", rows=2, columns=2)
    losses, scores, classes, rate = panels.axes
    _plot_losses(panels, losses, epochs)

    best = panels.best
    for key, label in _SCORES:
        panels.plot(scores, key, f"{label} {100 * best[key]:.1f}", factor=100)
    panels.star(scores, "val_mIoU")
    set_percent(
        scores, f"Validation, in percent (legend: epoch {best['epoch']:.0f}, the best mIoU)"
    )

    for name, colour in colours.items():
        iou = best[f"val_IoU_{name}"]
        label = f"{name} {'absent' if math.isnan(iou) else f'{100 * iou:.1f}'}"
        panels.plot(classes, f"val_IoU_{name}", label, factor=100, **_class_style(colour))
    set_percent(classes, "Validation IoU of each class, in percent")

    panels.plot(rate, "lr", "learning rate")
    set_from_zero(rate, "Learning rate at the end of the epoch")
    panels.save(path)


def _plot_losses(panels: CurvePanels, axes: Any, epochs: Sequence[Mapping[str, float]]) -> None:
    _sum, *parts = training_losses(epochs[0])
    panels.plot(axes, "loss", "sum", color="black")
    for number, key in enumerate(parts):
        panels.plot(axes, key, key.removesuffix("_loss"), color=f"C{number}")
    of_training = f"C{parts.index('segmentation_loss')}"
    label = "segmentation,\nvalidation"
    panels.plot(axes, "val_seg_loss", label, color=of_training, linestyle="--")
    title = "Losses, means of each epoch"
    if all(row[key] > 0 for row in epochs for key in ("loss", *parts, "val_seg_loss")):
        set_logarithmic(axes, f"{title} (logarithmic)")
    else:
        set_from_zero(axes, title)


def _class_style(colour: Colour) -> dict[str, Any]:
    """Return how the line of a class looks; a light one could not be seen on white."""
    from matplotlib.patheffects import withStroke

    style: dict[str, Any] = {"color": tuple(value / 255 for value in colour)}
    if _luminance(colour) > _LIGHT:
        style["path_effects"] = [withStroke(linewidth=3, foreground="0.35")]
    return style


def _luminance(colour: Colour) -> float:
    """Return the relative luminance of an sRGB colour (WCAG 2.2), 0 black to 1 white."""
    shares = [value / 255 for value in colour]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _defined(score: float) -> float | None:
    return None if math.isnan(score) else score
