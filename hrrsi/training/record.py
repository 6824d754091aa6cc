"""What a run writes after each epoch: metrics, curves, and the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from hrrsi.labels.splits import Part
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.curves import write_curves
from hrrsi.training.epoch_clock import EpochClock
from hrrsi.training.metrics_file import METRICS, holds_metrics, write_metrics
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions
from hrrsi.training.run_environment import hardware
from hrrsi.weights import save_weights
from hrrsi.weights_file import ModelMeta

BEST_WEIGHTS = "best.safetensors"
CURVES = "curves.png"

_PROTOCOL = "every class counts, no test-time augmentation"
# Of TrainOptions: what the weights can't tell, and says nothing of the machine's folders.
_SETTINGS = ("freeze_encoder", "seed", "patience", "precision", "devices", "nodes", "compile")


class RunRecord(Callback):
    """Keeps the metrics of the epochs, and writes them, curves and the best weights.

    A row of the metrics holds the epoch, the images seen since the run began, the seconds of
    the epoch and the images trained on in each of them (validation aside), the learning rate
    after its last step, the mean of each loss, OA, mF1, mIoU and each class' IoU.

    Args:
        options: Options of the run.
        dataset: The dataset that it is trained on.
        report: Called with a line an epoch.
    """

    def __init__(
        self, options: TrainOptions, dataset: TiledDataset, report: Callable[[str], None]
    ) -> None:
        self._options = options
        self._description = dataset.description
        patches = len(dataset.patches("train")[: options.overfit or None])
        self._batch = min(options.recipe.batch, patches)
        self._report = report
        self._rows: list[dict[str, float]] = []
        self._clock = EpochClock()

    @property
    def rows(self) -> list[dict[str, float]]:
        """The metrics of the epochs so far."""
        return self._rows

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the epoch with the highest validation mIoU."""
        return max(self._rows, key=lambda row: row["val_mIoU"])

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

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add a row to the metrics, and report it."""
        row = self._row(trainer, pl_module)
        self._rows.append(row)
        if not trainer.is_global_zero:
            return
        options = self._options
        losses = " ".join(f"{key.removesuffix('_loss')} {row[key]:.3f}" for key in pl_module.losses)
        self._report(
            f"{options.model} epoch {row['epoch']:.0f}/{options.recipe.epochs}: {losses} | "
            f"val mIoU {100 * row['val_mIoU']:.2f} OA {100 * row['val_OA']:.2f} | "
            f"{row['seconds']:.0f} s, {row['images_per_second']:.3g} images/s"
            + (" | best so far" if row is self.best else "")
        )

    def write(self, module: SegmentationTraining) -> None:
        """Write metrics, curves and, where the last epoch is the best so far, its weights.

        Args:
            module: What was trained, as it was after that epoch.
        """
        folder, row = self._options.run_folder, self._rows[-1]
        if holds_metrics(self._rows, folder / METRICS):
            return  # of a run that goes on after all was written
        if row is self.best:
            weights = module.kept_network.state_dict()
            save_weights(weights, self._meta(row), folder / BEST_WEIGHTS)
        write_curves(self._rows, folder / CURVES)
        write_metrics(self._rows, folder / METRICS)  # last: it says that all is written

    def _row(self, trainer: Any, module: SegmentationTraining) -> dict[str, float]:
        scores = module.matrix.scores()
        images = trainer.num_training_batches * self._batch
        return {
            "epoch": trainer.current_epoch + 1,
            "images_seen": trainer.global_step * self._batch,
            "seconds": round(self._clock.seconds, 1),
            "images_per_second": round(images / self._clock.trained_seconds, 2),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **module.losses,
            "val_OA": scores.overall_accuracy,
            "val_mF1": scores.mean_f1,
            "val_mIoU": scores.mean_iou,
            **{f"val_IoU_{c.name}": c.iou for c in scores.classes},
        }

    def _meta(self, row: Mapping[str, float]) -> ModelMeta:
        description, options = self._description, self._options
        resolution = description.resolution
        validated: Part = "train" if options.overfit else "val"
        meta = ModelMeta(
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
                # the file of --init holds an encoder, so no other weights are read
                "encoder_weights": None if options.init else Path(options.encoder_weights).name,
                "init": options.init and options.init.name,
                **{name: getattr(options, name) for name in _SETTINGS},
                "images_seen": int(row["images_seen"]),
                "epoch": int(row["epoch"]),
                "seconds": round(sum(row["seconds"] for row in self._rows), 1),
                "hardware": hardware(),
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
        )
        if description.height is not None:
            meta["height"] = True
        return meta


def _defined(score: float) -> float | None:
    return None if math.isnan(score) else score
