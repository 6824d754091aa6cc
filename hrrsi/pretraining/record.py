"""What a pre-training run says and writes: skipped images, metrics, curves, the best encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save

from hrrsi.atomic_write import replacing
from hrrsi.pretraining.classifiers import BANDS, ghostnet_width
from hrrsi.pretraining.curves import write_pretraining_curves
from hrrsi.pretraining.epoch_images import ImageBatch
from hrrsi.pretraining.image_folders import ImageFolders
from hrrsi.pretraining.module import MEAN, STD, ClassifierTraining
from hrrsi.pretraining.options import PretrainOptions
from hrrsi.training.epoch_clock import EpochClock
from hrrsi.training.failures import SharedError
from hrrsi.training.metrics_file import METRICS, holds_metrics, write_metrics
from hrrsi.weights_file import ENCODER_METADATA

ENCODER_WEIGHTS = "encoder.safetensors"
CURVES = "curves.png"


class PretrainRecord(Callback):
    """Names corrupt images, keeps the epochs' metrics, and writes them and the best encoder.

    Args:
        options: Options of the run.
        folders: The images.
        report: Called with a line an epoch.
        warn: Called once with each image that is skipped.
    """

    def __init__(
        self,
        options: PretrainOptions,
        folders: ImageFolders,
        report: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._options = options
        self._folders = folders
        self._report = report
        self._warn = warn
        self._warned: set[tuple[str, int]] = set()
        self._clock = EpochClock()
        self._rows: list[dict[str, float]] = []

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the epoch with the highest top-1."""
        return max(self._rows, key=lambda row: row["val_top1"])

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the metrics so far, and the time spent on this epoch."""
        return {"rows": self._rows, **self._clock.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint kept."""
        self._rows = state_dict["rows"]
        self._clock.load_state_dict(state_dict)

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the epoch's clock."""
        self._clock.start()

    def on_validation_start(self, *_: Any) -> None:
        """Take the time of the epoch's training."""
        self._clock.end_training()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: ImageBatch, batch_idx: int
    ) -> None:
        """Name the corrupt images of a batch."""
        self._name_skipped("train", batch)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: ImageBatch, *_: Any
    ) -> None:
        """Name the corrupt images of a batch."""
        self._name_skipped("val", batch)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop where a split has no image that can be read.

        Raises:
            SharedError: It has none.
        """
        metrics = pl_module.metrics
        for key, split in (("images", "train"), ("val_images", "val")):
            if not metrics[key]:
                raise SharedError(
                    "no image of it can be read",
                    where=self._folders.splits[split].folder,
                    fix="copy the images again",
                )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add a row to the metrics, and report it."""
        row = self._row(trainer, pl_module)
        self._rows.append(row)
        if not trainer.is_global_zero:
            return
        skipped = int(row["skipped"] + row["val_skipped"])
        self._report(
            f"{self._options.encoder} epoch {row['epoch']:.0f}/{self._options.recipe.epochs}: "
            f"loss {row['loss']:.3f} | val top-1 {100 * row['val_top1']:.2f} "
            f"top-5 {100 * row['val_top5']:.2f} | {row['seconds']:.0f} s, "
            f"{row['images_per_second']:.0f} images/s"
            + (f" | {skipped} corrupt image{'s' * (skipped > 1)} skipped" if skipped else "")
            + (" | best so far" if row is self.best else "")
        )

    def write(self, module: ClassifierTraining) -> None:
        """Write metrics, curves and, where the last epoch is the best so far, its encoder.

        Args:
            module: What was trained, as it was after that epoch.
        """
        folder, row = self._options.run_folder, self._rows[-1]
        if holds_metrics(self._rows, folder / METRICS):
            return  # of a run that goes on after all was written
        if row is self.best:
            self._write_encoder(module.network.state_dict(), row)
        write_pretraining_curves(self._rows, folder / CURVES)
        write_metrics(self._rows, folder / METRICS)  # last: it says that all is written

    def _name_skipped(self, split: str, batch: ImageBatch) -> None:
        for index, reason in batch.skipped:
            if (split, index) not in self._warned:
                self._warned.add((split, index))
                self._warn(f"{self._folders.splits[split].path(index)}: {reason}; it is skipped")

    def _row(self, trainer: Any, module: ClassifierTraining) -> dict[str, float]:
        metrics = module.metrics
        before = self._rows[-1]["images_seen"] if self._rows else 0
        return {
            "epoch": trainer.current_epoch + 1,
            "images_seen": before + metrics["images"],
            "seconds": round(self._clock.seconds, 1),
            "images_per_second": round(metrics["images"] / self._clock.trained_seconds, 1),
            "lr": module.last_learning_rate,
            **{k: v for k, v in metrics.items() if k not in ("images", "val_images")},
        }

    def _write_encoder(self, tensors: Mapping[str, torch.Tensor], row: Mapping[str, float]) -> None:
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
        stored = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        with replacing(options.run_folder / ENCODER_WEIGHTS) as temporary:
            # written by us, so that a full disk shows as such
            temporary.write_bytes(save(stored, {ENCODER_METADATA: json.dumps(about)}))
