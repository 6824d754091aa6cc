"""What a pre-training run says and writes: skipped images, metrics, curves, the best encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from hrrsi.files import replacing
from hrrsi.networks.weights_file import ENCODER_METADATA, ENCODER_WEIGHTS
from hrrsi.pretraining.classification import BANDS, MEAN, STD, ClassifierTraining, ghostnet_width
from hrrsi.pretraining.epoch_images import ImageBatch
from hrrsi.pretraining.images import ImageFolders
from hrrsi.pretraining.options import PretrainOptions
from hrrsi.runs.failures import SharedError
from hrrsi.runs.record import CurvePanels, EpochRecord, set_from_zero, set_logarithmic, set_percent


class PretrainRecord(EpochRecord):
    """Names corrupt images, keeps the epochs' metrics, and writes them and the best encoder.

    Beside what every `EpochRecord` holds, a row has the learning rate of the epoch's last step
    and what `ClassifierTraining.metrics` says.

    Args:
        options: Options of the run.
        folders: The images.
        report: Called with a line an epoch.
        warn: Called once with each image that is skipped.
    """

    _options: PretrainOptions

    def __init__(
        self,
        options: PretrainOptions,
        folders: ImageFolders,
        report: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(options, "val_top1", report)
        self._folders = folders
        self._warn = warn
        self._warned: set[tuple[str, int]] = set()

    def see(self, split: str, batch: ImageBatch) -> None:
        """Name the corrupt images of a batch."""
        for index, reason in batch.skipped:
            if (split, index) not in self._warned:
                self._warned.add((split, index))
                self._warn(f"{self._folders.splits[split].path(index)}: {reason}; it is skipped")

    def end_validation(self, task: ClassifierTraining) -> None:
        """Stop where a split has no image that can be read.

        Raises:
            SharedError: It has none.
        """
        for key, split in (("images", "train"), ("val_images", "val")):
            if not task.metrics[key]:
                raise SharedError(
                    "no image of it can be read",
                    where=self._folders.splits[split].folder,
                    fix="copy the images again",
                )

    def end(self, task: ClassifierTraining) -> None:
        """Look at what the run leaves, which its last line says."""

    def _images(self, task: ClassifierTraining) -> int:
        return round(task.metrics["images"])

    def _metrics(self, task: ClassifierTraining, learning_rate: float) -> dict[str, float]:
        counts = ("images", "val_images")
        metrics = {key: value for key, value in task.metrics.items() if key not in counts}
        return {"lr": task.last_learning_rate, **metrics}

    def _summary(self, row: dict[str, float]) -> str:
        skipped = int(row["skipped"] + row["val_skipped"])
        return (
            f"loss {row['loss']:.3f} | val top-1 {100 * row['val_top1']:.2f} "
            f"top-5 {100 * row['val_top5']:.2f}"
            + (f" | {skipped} corrupt image{'s' * (skipped > 1)} skipped" if skipped else "")
        )

    def _write_curves(self, path: Path) -> None:
        write_pretraining_curves(self._rows, path)

    def _write_best(self, task: ClassifierTraining, row: dict[str, float]) -> None:
        options, recipe = self._options, self._options.recipe
        about = {
            "encoder": options.encoder,
            "width": ghostnet_width(options.encoder),
            "bands": BANDS,
            "mean": MEAN,
            "std": STD,
            "classes": self._folders.classes,
            "top1": row["val_top1"],
            "top5": row["val_top5"],
            "epoch": int(row["epoch"]),
            "epochs": recipe.epochs,
            "images_seen": int(row["images_seen"]),
            "batch": recipe.batch,
            "lr": recipe.lr,
            "weight_decay": recipe.weight_decay,
            "label_smoothing": recipe.label_smoothing,
            "size": recipe.size,
            "val_size": recipe.val_size,
            "loader": options.loader,
            "precision": options.precision,
            "seed": options.seed,
        }
        tensors: Mapping[str, torch.Tensor] = task.network.state_dict()
        stored = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        with replacing(options.run_folder / ENCODER_WEIGHTS) as temporary:
            # written by us, so that a full disk shows as such
            temporary.write_bytes(save(stored, {ENCODER_METADATA: json.dumps(about)}))


def write_pretraining_curves(epochs: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw losses, shares of right images and learning rate over the epochs as a PNG.

    The epoch of the highest top-1, whose encoder is kept, is marked everywhere.

    Args:
        epochs: The rows of ``metrics.csv``.
        path: The picture; replaced where it exists.
    """
    panels = CurvePanels(epochs, "val_top1", rows=3, columns=1)
    losses, scores, rate = panels.axes
    panels.plot(losses, "loss", "training,\nlabels smoothed")
    panels.plot(losses, "val_loss", "validation")
    set_from_zero(losses, "Cross-entropy")

    best = panels.best
    panels.plot(scores, "val_top5", f"validation,\ntop 5 {100 * best['val_top5']:.1f}", factor=100)
    panels.plot(scores, "val_top1", f"validation,\ntop 1 {100 * best['val_top1']:.1f}", factor=100)
    panels.plot(scores, "top1", f"training crops,\ntop 1 {100 * best['top1']:.1f}", factor=100)
    panels.star(scores, "val_top1")
    set_percent(scores, f"Right images, in percent (legend: epoch {best['epoch']:.0f}, the best)")

    panels.plot(rate, "lr", "learning rate")
    rates = {row["lr"] for row in epochs}
    # a single one leaves a logarithmic axis without ends
    set_rate = set_logarithmic if len(rates) > 1 and min(rates) > 0 else set_from_zero
    set_rate(rate, "Learning rate at the end of the epoch")
    panels.save(path)
