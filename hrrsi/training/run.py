"""A training run: its folder, its checkpoints, and what it says while it works.

The run folder holds ``config.yaml`` (every option, as ``--config`` takes it), ``last.ckpt`` (to
resume), ``best.safetensors`` (highest validation mIoU), ``metrics.csv`` and ``curves.png``.
"""

from __future__ import annotations

import csv
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from hrrsi.atomic_write import prepare_folder, replacing
from hrrsi.device import chosen_device
from hrrsi.errors import HrrsiError
from hrrsi.networks import build_network
from hrrsi.progress import progress
from hrrsi.tensor_files import read_tensor_file
from hrrsi.tiling.dataset import DatasetDescription, TiledDataset
from hrrsi.training.curves import write_curves
from hrrsi.training.encoder_weights import load_encoder_weights
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import training_batches, validation_batches
from hrrsi.weights import ModelMeta, save_weights
from hrrsi.yaml_file import dump_yaml, read_yaml

BEST_WEIGHTS = "best.safetensors"
LAST_CHECKPOINT = "last.ckpt"
CONFIG = "config.yaml"
METRICS = "metrics.csv"
CURVES = "curves.png"

_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
# What a resumed run may change: the rest would make its curve another one.
_FREE_ON_RESUME = ("data", "out", "device", "workers")


@dataclass(frozen=True)
class TrainedRun:
    """What a training run leaves.

    Attributes:
        folder: The run folder.
        weights: The weights of the best epoch.
        best_epoch: The epoch with the highest validation mIoU, from 1.
        best_miou: That mIoU, 0 to 1.
    """

    folder: Path
    weights: Path
    best_epoch: int
    best_miou: float


def train(
    options: TrainOptions,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    report: Callable[[str], None] = print,
) -> TrainedRun:
    """Train a network on a tiled dataset.

    Args:
        options: What to train, and how.
        resume: Continue the run in the same folder from its last checkpoint.
        overwrite: Replace an existing run.
        quiet: No progress bars.
        report: Called with a line an epoch.

    Returns:
        Where the weights of the epoch with the highest validation mIoU are.

    Raises:
        HrrsiError: The dataset can't be trained on, the run exists (or does not, with `resume`),
            weights can't be had, or the loss stops being a number.
    """
    dataset = TiledDataset(options.data)
    description = dataset.description
    _check_trainable(dataset)
    accelerator, devices = _accelerator(options.device)
    folder = options.run_folder
    resume = resume and folder.exists()  # of several models, some may not have been started yet
    if not resume:
        _refuse_existing_run(folder, overwrite=overwrite)
    else:
        _check_resumable(options)
    lightning.seed_everything(options.seed, workers=True, verbose=False)
    network = build_network(options.model, len(description.classes), len(description.bands))
    if not resume:
        load_encoder_weights(network, options.model, options.encoder_weights)
        _start_folder(options)
    record = RunRecord(options, description, report=report)
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=devices,
        precision=_PRECISIONS[options.precision],  # type: ignore[arg-type]
        max_epochs=options.epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[
            record,
            EpochProgress(enabled=not quiet),
            ModelCheckpoint(
                dirpath=folder,
                filename=Path(LAST_CHECKPOINT).stem,
                save_top_k=1,
                every_n_epochs=1,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
        ],
    )
    try:
        with warnings.catch_warnings():
            # advice on workers and logging that a user of the command line can't act on
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            trainer.fit(
                SegmentationTraining(network, options, description),
                training_batches(
                    dataset,
                    batch=options.batch,
                    workers=options.workers,
                    seed=options.seed,
                    first_epoch=_finished_epochs(folder) if resume else 0,
                ),
                validation_batches(dataset, batch=options.batch, workers=options.workers),
                ckpt_path=folder / LAST_CHECKPOINT if resume else None,
                weights_only=True,
            )
    except HrrsiError as error:
        raise _without_worker_traceback(error) from error
    except torch.OutOfMemoryError as error:
        raise HrrsiError(
            "the GPU is out of memory", where=options.device, fix="lower --batch"
        ) from error
    except SystemExit:  # how Lightning ends a run that Ctrl-C stopped
        raise KeyboardInterrupt from None
    best = record.best
    return TrainedRun(folder, folder / BEST_WEIGHTS, int(best["epoch"]), best["val_mIoU"])


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


class EpochProgress(Callback):
    """A progress bar for the training and one for the validation of each epoch.

    Args:
        enabled: False shows nothing.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._open: Any = None
        self._bar: Any = None

    def _start(self, what: str, total: float) -> None:
        self._stop()
        self._open = progress(what, total, " batches", enabled=self._enabled)
        self._bar = self._open.__enter__()

    def _stop(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the epoch's bar."""
        self._start(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", trainer.num_training_batches
        )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Advance the bar."""
        self._bar.update()
        if not self._bar.disable:
            self._bar.set_postfix_str(f"loss {pl_module.losses['loss']:.3f}", refresh=False)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the validation's bar."""
        self._start("validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Advance the bar."""
        self._bar.update()

    def on_validation_epoch_end(self, *_: Any) -> None:
        """Close the validation's bar."""
        self._stop()

    def on_exception(self, *_: Any) -> None:
        """Close whatever bar is open, so that the error starts on a line of its own."""
        self._stop()


def _check_trainable(dataset: TiledDataset) -> None:
    for split, fix in (
        ("train", "tile it with scenes for training"),
        ("val", "tile it with --val-scenes: the best weights are chosen on them, never on test"),
    ):
        if split not in dataset.description.splits:
            raise HrrsiError(f"has no {split} split", where=dataset.folder, fix=fix)
        dataset.patches(split)
        pixels = dataset.description.splits[split].class_pixels
        present = [n for n, p in zip(dataset.description.classes, pixels, strict=True) if p]
        if len(present) < (2 if split == "train" else 1):
            raise HrrsiError(
                f"the labels of its {split} split hold "
                + (f"one class only ({present[0]})" if present else "no class at all"),
                where=dataset.folder,
                fix="tile scenes whose labels hold at least two classes",
            )


def _accelerator(device: str) -> tuple[str, Any]:
    """Return Lightning's words for a device: its kind, and which or how many of it."""
    name, _, number = chosen_device(device).partition(":")
    return ("cpu", 1) if name == "cpu" else ("gpu", [int(number or 0)])


def _refuse_existing_run(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise HrrsiError(
            "holds a run already",
            where=folder,
            fix="give --resume to continue it, --overwrite to replace it, or another --out",
        )
    if not (folder / CONFIG).is_file():
        raise HrrsiError("is not a run folder", where=folder, fix="give another --out")


def _check_resumable(options: TrainOptions) -> None:
    folder = options.run_folder
    if not (folder / LAST_CHECKPOINT).is_file():
        raise HrrsiError(
            f"holds no {LAST_CHECKPOINT} to resume from",
            where=folder,
            fix="start the run without --resume, with --overwrite if the folder exists",
        )
    before, now = read_yaml(folder / CONFIG), options.to_config()
    for key, value in now.items():
        if key not in _FREE_ON_RESUME and before.get(key) != value:
            raise HrrsiError(
                f"was started with {key} {before.get(key)}, not {value}",
                where=folder,
                fix="resume with the same options, or start another run",
            )


def _finished_epochs(folder: Path) -> int:
    path = folder / LAST_CHECKPOINT
    checkpoint = read_tensor_file(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("epoch"), int):
        raise HrrsiError(
            "is not a checkpoint", where=path, fix="start the run again with --overwrite"
        )
    return int(checkpoint["epoch"]) + 1


def _start_folder(options: TrainOptions) -> None:
    folder = options.run_folder
    if folder.exists():
        shutil.rmtree(folder)
    prepare_folder(folder)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(dump_yaml(options.to_config()), encoding="utf-8")


def _write_metrics(rows: list[dict[str, float]], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _without_worker_traceback(error: HrrsiError) -> HrrsiError:
    """Return the error that a loading process raised, without the traceback torch adds to it."""
    lines = str(error).strip().splitlines()
    prefix = "hrrsi.errors.HrrsiError: "
    return HrrsiError(lines[-1].removeprefix(prefix)) if lines[-1].startswith(prefix) else error


# Lightning announces devices, tips and seeds; the command line has its own words.
for _name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.ERROR)
