"""A training run: its folder, its checkpoints, and what it says while it works.

The run folder holds ``config.yaml`` (every option, as ``--config`` takes it), ``last.ckpt`` (to
resume), ``best.safetensors`` (highest validation mIoU), ``metrics.csv`` and ``curves.png``.
"""

from __future__ import annotations

import io
import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hrrsi.atomic_write import prepare_folder, replacing
from hrrsi.device import chosen_device
from hrrsi.errors import HrrsiError
from hrrsi.networks.segmentation import build_network
from hrrsi.tensor_files import read_tensor_file
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.encoder_weights import check_encoder_source, load_encoder_weights
from hrrsi.training.epoch_progress import EpochProgress
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import training_batches, validation_batches
from hrrsi.training.record import BEST_WEIGHTS, RunRecord
from hrrsi.yaml_file import dump_yaml, read_yaml

LAST_CHECKPOINT = "last.ckpt"
CONFIG = "config.yaml"

_ENCODER_STRIDE = 32
_PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
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
        resume: Continue the run in the same folder from its last checkpoint; a run that does not
            exist is started.
        overwrite: Replace an existing run.
        quiet: No progress bars.
        report: Called with a line an epoch.

    Returns:
        Where the weights of the epoch with the highest validation mIoU are.

    Raises:
        HrrsiError: The dataset can't be trained on, the run exists (or is another one, with
            `resume`), weights can't be had, or the loss stops being a number.
    """
    dataset = check_run(options, resume=resume, overwrite=overwrite)
    description = dataset.description
    accelerator, devices = _accelerator(options.device)
    folder = options.run_folder
    resume = resume and folder.exists()
    lightning.seed_everything(options.seed, workers=True, verbose=False)
    network = build_network(options.model, len(description.classes), len(description.bands))
    if not resume:
        load_encoder_weights(network, options.model, options.encoder_weights)
        _start_folder(options)
    record = RunRecord(options, description, report=report)
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=devices,
        precision=_PRECISIONS[options.precision],
        max_epochs=options.epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        plugins=[WholeCheckpoints()],
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
    finally:
        _settle_replaced(folder)
    best = record.best
    return TrainedRun(folder, folder / BEST_WEIGHTS, int(best["epoch"]), best["val_mIoU"])


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints that are whole under their name, wherever temporary files live."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; a full disk leaves the one before."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())


def check_run(options: TrainOptions, *, resume: bool, overwrite: bool) -> TiledDataset:
    """Return the dataset of a run, having checked what can be checked before it starts.

    Args:
        options: What to train, and how.
        resume: Whether an existing run is continued; one that does not exist is started.
        overwrite: Whether an existing run is replaced.

    Raises:
        HrrsiError: As `train`, for what shows before training.
    """
    dataset = TiledDataset(options.data)
    _check_trainable(dataset, options.batch)
    accelerator, _ = _accelerator(options.device)
    if accelerator == "cpu" and options.precision == "16":
        raise HrrsiError(
            "half precision needs a GPU", where="--precision 16", fix="give --precision bf16 or 32"
        )
    folder = options.run_folder
    _settle_replaced(folder)
    if resume and folder.exists():
        _check_resumable(options)
    else:
        _refuse_existing_run(folder, overwrite=overwrite)
        check_encoder_source(options.model, options.encoder_weights)
    return dataset


def _check_trainable(dataset: TiledDataset, batch: int) -> None:
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
    patches = dataset.description.splits["train"].patches
    if min(batch, patches) == 1 and dataset.description.patch_size <= _ENCODER_STRIDE:
        raise HrrsiError(
            "BatchNorm can't learn from a single pixel, which is what one patch of "
            f"{dataset.description.patch_size} px becomes at stride {_ENCODER_STRIDE}",
            where=dataset.folder,
            fix="tile larger or more patches, or raise --batch",
        )


def _accelerator(device: str) -> tuple[str, Any]:
    """Return Lightning's words for a device: its kind, and which or how many of it."""
    name, _, number = chosen_device(device).partition(":")
    return ("cpu", 1) if name == "cpu" else ("gpu", [int(number or 0)])


def _refuse_existing_run(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists() or {p.name for p in folder.iterdir()} <= {CONFIG}:
        return  # nothing there, or a run that never finished its first epoch
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
        folder.rename(_replaced(folder))
    prepare_folder(folder)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(dump_yaml(options.to_config()), encoding="utf-8")


def _replaced(folder: Path) -> Path:
    """Return where a run waits that another one replaces."""
    return folder.with_name(f".{folder.name}.replaced")


def _settle_replaced(folder: Path) -> None:
    """Drop a replaced run once the new one has a checkpoint, else put it back."""
    replaced = _replaced(folder)
    if not replaced.exists():
        return
    if (folder / LAST_CHECKPOINT).exists():
        shutil.rmtree(replaced)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        replaced.rename(folder)


def _without_worker_traceback(error: HrrsiError) -> HrrsiError:
    """Return the error that a loading process raised, without the traceback torch adds to it."""
    lines = str(error).strip().splitlines()
    prefix = "hrrsi.errors.HrrsiError: "
    return HrrsiError(lines[-1].removeprefix(prefix)) if lines[-1].startswith(prefix) else error


# Lightning announces devices, tips and seeds; the command line has its own words.
for _name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.ERROR)
