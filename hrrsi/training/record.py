"""What a training run says and writes after an epoch, curves among it; its best epoch by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hrrsi.classes import Colour
from hrrsi.labels.splits import Part
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_file import BEST_WEIGHTS
from hrrsi.quantities import TextTable
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
from hrrsi.training.module import SegmentationTraining, defined_mean
from hrrsi.training.network_input import middle_input_resolution, seen_resolutions
from hrrsi.training.options import TrainOptions
from hrrsi.training.run_data import RunData, as_run_data, training_likeness
from hrrsi.training.sample_pictures import SamplePictures

_PROTOCOL = "every class counts, no test-time augmentation"
# Of TrainOptions: what the weights can't tell, and says nothing of the machine's folders.
_SETTINGS = ("freeze_encoder", "seed", "patience", "precision", "devices", "nodes", "compile")
_SCORES = (("val_OA", "OA"), ("val_mF1", "mF1"), ("val_mIoU", "mIoU"))
_MIOU_OF = "val_mIoU_"  # and the name of one of several datasets
_LIGHT = 0.4  # a relative luminance that stands out from white by a contrast of 2.3


class RunRecord(EpochRecord):
    """Keeps the metrics of the epochs, and writes them, curves, pictures and the best weights.

    Beside what every `EpochRecord` holds, a row has the learning rate after the epoch's last
    step, the mean of each loss, the segmentation loss of the validation patches, OA, mF1, mIoU
    and each class' IoU. At the run's end, the best epoch's IoU of each class is reported.

    Of several datasets, these scores are the means of theirs, and mIoU and each class' IoU of each
    follow.

    Args:
        options: Options of the run.
        dataset: The dataset that it is trained on, or several as one.
        report: Called with a line an epoch, and with a table at the end.
        is_first: Whether this is the process that writes.
        pruned: What was cut out of the network (`hrrsi.networks.model_meta.ModelMeta`), or None.
    """

    _options: TrainOptions

    def __init__(
        self,
        options: TrainOptions,
        dataset: TiledDataset | RunData,
        report: Callable[[str], None],
        *,
        is_first: bool = True,
        pruned: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(options, BEST_WEIGHTS, "val_mIoU", report, options.patience)
        self._data = as_run_data(dataset)
        self._description = self._data.description
        patches = self._data.epoch_length(options.overfit)
        batch = min(options.recipe.batch, patches)
        self._trained_patches = patches // batch * batch
        self._is_first = is_first
        self._pruned = pruned
        self._samples = SamplePictures(options, self._data)
        self._tensorboard = TensorBoardLog(options.run_folder)

    def close(self) -> None:
        """Close TensorBoard's file."""
        self._tensorboard.close()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        own: dict[str, Any] = {"samples": self._samples.state(), "pruned": self._pruned}
        if self._data.has_initial_statistics:
            about = self._description
            own["initial_statistics"] = [list(about.mean), list(about.std)]
        return {**super().state(), **own}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        super().load_state(state)
        self._samples.load_state(state["samples"])

    def see(self, split: str, batch: Any) -> None:
        """Look at a batch, of which there is nothing to say."""

    def end_validation(self, task: SegmentationTraining) -> None:
        """Draw the sample pictures of an epoch that is the best so far.

        Raises:
            SharedError: No pixel was validated that shows a single class, or none was trained on,
                whatever dataset.yaml says of the labels.
        """
        overfit = self._options.overfit
        if math.isnan(task.mean_iou):
            raise SharedError(
                "no pixel validated on has a label of a single class, so no weights are the best",
                where=self._place("train" if overfit else "val"),
                fix="give a higher `overfit`"
                if overfit
                else "tile validation scenes with labels that show a class",
            )
        if not self.rows and task.losses["loss"] == 0:  # ignored pixels alone cost nothing
            raise SharedError(
                "no pixel trained on has a label, so there is nothing to learn",
                where=self._place("train"),
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

    def _place(self, split: str) -> str:
        return ", ".join(str(source.dataset.folder / split) for source in self._data.sources)

    def _show_picture(self) -> None:
        picture = self._samples.latest
        if picture is not None:
            self._tensorboard.add_picture(picture.epoch, picture.path)

    def _images(self, task: SegmentationTraining) -> int:
        return self._trained_patches

    def _metrics(self, task: SegmentationTraining, learning_rate: float) -> dict[str, float]:
        scores = task.dataset_scores
        classes = list(zip(*(own.classes for own in scores), strict=True))
        metrics = {
            "lr": learning_rate,
            **task.losses,
            "val_seg_loss": task.validation_loss,
            "val_OA": defined_mean(own.overall_accuracy for own in scores),
            "val_mF1": defined_mean(own.mean_f1 for own in scores),
            "val_mIoU": task.mean_iou,
            **{f"val_IoU_{of[0].name}": defined_mean(c.iou for c in of) for of in classes},
        }
        if self._data.is_mixed:
            for name, own in zip(self._data.names, scores, strict=True):
                metrics[f"{_MIOU_OF}{name}"] = own.mean_iou
                for c in own.classes:
                    metrics[_class_key(c.name, name)] = c.iou
        return metrics

    def _summary(self, row: dict[str, float]) -> str:
        losses = [f"{key.removesuffix('_loss')} {row[key]:.3f}" for key in training_losses(row)]
        validated = "train" if self._options.overfit else "val"
        dataset_scores = [f"{name} {_percent(row[_MIOU_OF + name])}" for name in self._names]
        return (
            f"{' '.join(losses)} | {validated} mIoU {100 * row['val_mIoU']:.2f} "
            + (f"({', '.join(dataset_scores)}) " if dataset_scores else "")
            + f"OA {100 * row['val_OA']:.2f} segmentation {row['val_seg_loss']:.3f}"
        )

    def _write_best(self, task: SegmentationTraining, row: dict[str, float]) -> None:
        weights = task.kept_network.state_dict()
        teachers = [] if task.teachers is None else task.teachers.sources
        meta = self._meta(row, teachers)
        save_weights(weights, meta, self._weights)

    def _write_curves(self, path: Path) -> None:
        description = self._description
        colours = dict(zip(description.classes, description.colours, strict=True))
        write_curves(self._rows, colours, path, self._names)

    def _class_table(self) -> str:
        best = self.best
        columns = [*(f"IoU {name}" for name in self._names), "mean"] if self._names else ["IoU"]
        table = TextTable(["class", *columns])
        for c in self._description.classes:
            keys = [*(_class_key(c, name) for name in self._names), f"val_IoU_{c}"]
            table.add_row([c, *(_percent(best[key]) for key in keys)])
        if self._names:
            keys = [*(_MIOU_OF + name for name in self._names), "val_mIoU"]
            table.add_row(["mIoU", *(_percent(best[key]) for key in keys)])
        validated = "training patches" if self._options.overfit else "validation"
        return f"epoch {best['epoch']:.0f}, the best, {validated}, in percent:\n{table}"

    @property
    def _names(self) -> list[str]:
        """Names of the datasets, where there are several."""
        return self._data.names if self._data.is_mixed else []

    def _meta(self, row: Mapping[str, float], teachers: Sequence[Mapping[str, Any]]) -> ModelMeta:
        description, options = self._description, self._options
        resolutions = seen_resolutions(self._data, options)
        meanings = description.band_meanings
        validated: Part = "train" if options.overfit else "val"
        protocol = ("training patches, " if options.overfit else "patches, ") + _PROTOCOL
        return ModelMeta(
            model=options.model,
            classes=description.classes,
            colours=description.colours,
            bands=description.bands,
            band_meanings=None if meanings is None else list(meanings),
            dtype=description.dtype,
            scale=description.scale,
            mean=description.mean,
            std=description.std,
            resolution=middle_input_resolution(self._data, options),
            scheme=description.scheme,
            training={
                "data": description.scheme,
                "scenes": description.splits["train"].scenes,
                "patches": options.overfit or description.splits["train"].patches,
                "patch_size": description.patch_size,
                **options.recipe.to_config(),
                **self._sources_meta(),
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
                    "protocol": protocol + (", mean of the datasets" if self._names else ""),
                    "scenes": description.splits[validated].scenes,
                    "OA": _defined(row["val_OA"]),
                    "mF1": _defined(row["val_mF1"]),
                    "mIoU": _defined(row["val_mIoU"]),
                    "IoU": {name: _defined(row[f"val_IoU_{name}"]) for name in description.classes},
                },
                **{
                    f"validation, {name}": {
                        "protocol": protocol,
                        "mIoU": _defined(row[_MIOU_OF + name]),
                        "IoU": {c: _defined(row[_class_key(c, name)]) for c in description.classes},
                    }
                    for name in self._names
                },
            },
            licence="",
            height=description.height is not None,
            resolutions=resolutions,
            likeness=None if self._likeness is None else self._likeness.to_plain(),
            pruned=self._pruned,
            logit_alignment=options.recipe.logit_alignment,
        )

    def _sources_meta(self) -> dict[str, Any]:
        """Return what weights say of several datasets."""
        if not self._data.is_mixed:
            return {}
        shares = self._data.drawn_shares(self._options.overfit)
        datasets = {
            source.name: {
                "scheme": source.description.scheme,
                "share": round(share, 6),
                "resolution": source.resolution,
            }
            for source, share in zip(self._data.sources, shares, strict=True)
        }
        return {"datasets": datasets}

    @cached_property
    def _likeness(self) -> Likeness | None:
        datasets = [source.dataset for source in self._data.sources if source.share]
        return training_likeness(datasets, self._options.overfit)


def recorded_names(checkpoint: Mapping[str, Any] | None) -> list[str]:
    """Return what a checkpoint's metrics call each of several datasets, in their order."""
    rows = (checkpoint or {}).get("record", {}).get("rows") or [{}]
    return [key.removeprefix(_MIOU_OF) for key in rows[0] if key.startswith(_MIOU_OF)]


def write_curves(
    epochs: Sequence[Mapping[str, float]],
    colours: Mapping[str, Colour],
    path: Path,
    datasets: Sequence[str] = (),
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
        datasets: Names of the datasets that each have an mIoU, drawn dashed.
    """
    panels = CurvePanels(epochs, "val_mIoU", rows=2, columns=2)
    losses, scores, classes, rate = panels.axes
    _plot_losses(panels, losses, epochs)

    best = panels.best
    for key, label in _SCORES:
        panels.plot(scores, key, f"{label} {100 * best[key]:.1f}", factor=100)
    for name in datasets:
        label = f"mIoU {name} {_percent(best[_MIOU_OF + name])}"
        panels.plot(scores, _MIOU_OF + name, label, factor=100, linestyle="--")
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


def _class_key(name: str, dataset: str) -> str:
    """Return the metric of a class' IoU on one of several datasets."""
    return f"val_IoU_{dataset}/{name}"


def _percent(score: float) -> str:
    return "-" if math.isnan(score) else f"{100 * score:.2f}"


def _defined(score: float) -> float | None:
    return None if math.isnan(score) else score
