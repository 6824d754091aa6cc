"""What a run writes after each epoch: metrics, curves, and the best weights."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from hrrsi.atomic_write import replacing
from hrrsi.tiling.dataset import DatasetDescription
from hrrsi.training.curves import write_curves
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions
from hrrsi.weights import save_weights
from hrrsi.weights_file import ModelMeta

BEST_WEIGHTS = "best.safetensors"
METRICS = "metrics.csv"
CURVES = "curves.png"


class RunRecord(Callback):
    """Writes metrics, curves and the best weights after each epoch.

    Args:
        options: Options of the run.
        description: The dataset's description.
        report: Called with a line an epoch.
    """

    def __init__(
        self, options: TrainOptions, description: DatasetDescription, report: Callable[[str], None]
    ) -> None:
        self._options = options
        self._description = description
        self._report = report
        self._started = time.monotonic()
        self._rows: list[dict[str, float]] = []

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the epoch with the highest validation mIoU."""
        return max(self._rows, key=lambda row: row["val_mIoU"])

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the metrics so far."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the metrics so far from a checkpoint."""
        self._rows = state_dict["rows"]

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the epoch's clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add a row to the metrics, and keep the weights where they are the best so far."""
        row = self._row(trainer, pl_module)
        self._rows.append(row)
        folder = self._options.run_folder
        if row is self.best:
            save_weights(
                pl_module.network.state_dict(), self._meta(row, pl_module), folder / BEST_WEIGHTS
            )
        _write_metrics(self._rows, folder / METRICS)
        write_curves(self._rows, folder / CURVES)
        losses = " ".join(
            f"{key.removesuffix('_loss')} {row[key]:.3f}" for key in pl_module.losses if key in row
        )
        self._report(
            f"{self._options.model} epoch {row['epoch']:.0f}/{self._options.epochs}: {losses} | "
            f"val mIoU {100 * row['val_mIoU']:.2f} OA {100 * row['val_OA']:.2f} | "
            f"{row['seconds']:.0f} s" + (" | best so far" if row is self.best else "")
        )

    def _row(self, trainer: Any, module: SegmentationTraining) -> dict[str, float]:
        scores = module.matrix.scores()
        seen = trainer.global_step * self._options.batch
        return {
            "epoch": trainer.current_epoch + 1,
            "images_seen": seen,
            "seconds": round(time.monotonic() - self._started, 1),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **module.losses,
            "val_OA": scores.overall_accuracy,
            "val_mF1": scores.mean_f1,
            "val_mIoU": scores.mean_iou,
            **{f"val_IoU_{c.name}": c.iou for c in scores.classes},
        }

    def _meta(self, row: Mapping[str, float], module: SegmentationTraining) -> ModelMeta:
        description, options = self._description, self._options
        resolution = description.resolution
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
                "patches": description.splits["train"].patches,
                "patch_size": description.patch_size,
                "images_seen": int(row["images_seen"]),
                "epoch": int(row["epoch"]),
                "epochs": options.epochs,
                "batch": options.batch,
                "lr": options.lr,
                "weight_decay": options.weight_decay,
                "encoder_weights": Path(options.encoder_weights).name,
                "precision": options.precision,
                "seed": options.seed,
            },
            scores={
                "validation": {
                    "protocol": "patches, every class counts, no test-time augmentation",
                    "scenes": description.splits["val"].scenes,
                    "OA": row["val_OA"],
                    "mF1": row["val_mF1"],
                    "mIoU": row["val_mIoU"],
                    "IoU": {c.name: c.iou for c in module.matrix.scores().classes},
                }
            },
            licence="",
        )


def _write_metrics(rows: list[dict[str, float]], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
