"""Classification as a task: the classifiers, a training and a validation step, and its record.

The record is what a run says and writes: skipped images, metrics, curves, the best encoder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import nn

from hrrsi.errors import HrrsiError, OptionError, first_line
from hrrsi.files import replacing
from hrrsi.networks.network import check_timm_name, ghostnet_classifier
from hrrsi.networks.weights_file import ENCODER_METADATA, ENCODER_WEIGHTS
from hrrsi.pretraining.epoch_images import ImageBatch
from hrrsi.pretraining.images import ImageFolders
from hrrsi.pretraining.options import PretrainOptions, PretrainRecipe, learning_rate_share
from hrrsi.runs.failures import SharedError
from hrrsi.runs.processes import averaged, gathered, rank, world_size
from hrrsi.runs.record import CurvePanels, EpochRecord, set_from_zero, set_logarithmic, set_percent
from hrrsi.runs.task import Task

BANDS = 3
# Of ImageNet's training images, from 0 to 1: what timm's and torchvision's weights expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TOP = 5

_GHOSTNET = re.compile(r"ghostnet_(\d{3})")
_LOSS, _RIGHT, _AMONG_TOP, _IMAGES, _SKIPPED = range(5)


class ClassifierTraining(Task):
    """Trains a classifier with smoothed labels, and validates it with top-1 and top-5.

    Args:
        network: The classifier.
        recipe: Learning rate, smoothing.
        steps: Steps of the whole run.
        names: Files of the training images, by index.
        compiled: Whether to compile the network first.

    Attributes:
        network: The classifier.
    """

    _gain: torch.Tensor
    _offset: torch.Tensor
    _trained: torch.Tensor
    _validated: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        recipe: PretrainRecipe,
        steps: int,
        names: Sequence[str] = (),
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__(names)
        self.network = network.to(memory_format=torch.channels_last)
        self._recipe = recipe
        self._steps = steps
        self._logits: Callable[[nn.Module, torch.Tensor], torch.Tensor] = (
            torch.compile(_logits) if compiled else _logits
        )
        std = torch.tensor(STD)[:, None, None]
        self.register_buffer("_gain", 1 / (255 * std), persistent=False)
        self.register_buffer("_offset", -torch.tensor(MEAN)[:, None, None] / std, persistent=False)
        for name in ("_trained", "_validated"):
            self.register_buffer(name, torch.zeros(5, dtype=torch.float64), persistent=False)

    @property
    def losses(self) -> dict[str, float]:
        """Mean of the loss over the images of this epoch so far.

        Of this process' images, and from validation on of those of all processes.
        """
        return {"loss": float(self._trained[_LOSS] / self._trained[_IMAGES].clamp(min=1))}

    @property
    def last_learning_rate(self) -> float:
        """The learning rate of the epoch's last step."""
        steps = self._steps // self._recipe.epochs * (self.epoch + 1)
        return self._recipe.lr * learning_rate_share(steps - 1, self._steps)

    @property
    def score(self) -> str:
        """The last validation's top-1, in percent."""
        return f"top-1 {100 * self.metrics['val_top1']:.2f}"

    @property
    def metrics(self) -> dict[str, float]:
        """What an epoch came to, once it is validated; over all processes."""
        processes = world_size()
        trained, validated = self._trained.tolist(), self._validated.tolist()
        images, val_images = max(trained[_IMAGES], 1e-9), max(validated[_IMAGES], 1e-9)
        return {
            "loss": trained[_LOSS] / images,
            "top1": trained[_RIGHT] / images,
            "val_loss": validated[_LOSS] / val_images,
            "val_top1": validated[_RIGHT] / val_images,
            "val_top5": validated[_AMONG_TOP] / val_images,
            "images": round(processes * trained[_IMAGES]),
            "val_images": round(processes * validated[_IMAGES]),
            "skipped": round(processes * trained[_SKIPPED]),
            "val_skipped": round(processes * validated[_SKIPPED]),
        }

    def forward(self, batch: ImageBatch) -> torch.Tensor:
        """Return the smoothed cross-entropy of a batch."""
        self._trained[_SKIPPED] += len(batch.skipped)
        if not len(batch.labels):
            # every image of this share is corrupt; the other processes still wait for gradients
            return 0.0 * torch.stack([p.sum() for p in self.network.parameters()]).sum()
        logits = self._logits(self.network, self._normalised(batch.images)).float()
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self._recipe.label_smoothing)
        self._count(self._trained, logits.detach(), batch.labels, loss.detach())
        return loss

    def validate(self, batch: ImageBatch) -> None:
        """Count the images of a batch; their loss is not smoothed."""
        self._validated[_SKIPPED] += len(batch.skipped)
        if len(batch.labels):
            logits = self._logits(self.network, self._normalised(batch.images)).float()
            self._count(
                self._validated, logits, batch.labels, F.cross_entropy(logits, batch.labels)
            )

    def before_step(self) -> None:
        """Leave the gradients as they are."""

    def after_step(self, step: int) -> None:
        """Follow nothing: the weights themselves are kept."""

    def start_epoch(self) -> None:
        """Forget the counts of the last epoch."""
        self._trained.zero_()

    def start_validation(self) -> None:
        """Average the training's counts over the processes, and share running statistics."""
        self._validated.zero_()
        self._trained.copy_(averaged(self._trained))
        self.share_statistics()

    def end_validation(self) -> None:
        """Average the counts over the processes."""
        self._validated.copy_(averaged(self._validated))

    def network_buffers(self) -> list[torch.Tensor]:
        """Return the buffers of the network."""
        return list(self.network.buffers())

    def counts(self) -> dict[str, Any]:
        """Return the counts of the running epoch, of each process."""
        return {"trained": gathered(self._trained.cpu().clone())}

    def load_counts(self, counts: dict[str, Any]) -> None:
        """Take back what `counts` returned."""
        self._trained.copy_(counts["trained"][rank()])

    def optimizer_and_schedule(
        self,
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return SGD and its schedule."""
        recipe = self._recipe
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_share(step, self._steps)
        )
        return optimizer, schedule

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return images * self._gain + self._offset

    @staticmethod
    def _count(
        sums: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor
    ) -> None:
        best = logits.topk(min(TOP, logits.shape[1]), dim=1).indices == labels[:, None]
        sums[_LOSS] += loss * len(labels)
        sums[_RIGHT] += best[:, 0].sum()
        sums[_AMONG_TOP] += best.sum()
        sums[_IMAGES] += len(labels)


def classifier(encoder: str, classes: int, sizes: tuple[int, ...] = ()) -> nn.Module:
    """Return a classifier with the weights it starts from.

    Args:
        encoder: timm's name of it; ``ghostnet_NNN`` is GhostNet at width NNN / 100, whether timm
            has that name or not.
        classes: Number of classes.
        sizes: Rows and columns of images that it has to take.

    Returns:
        A module whose call on (N, 3, H, W) float images returns logits (N, classes).

    Raises:
        HrrsiError: There is no such encoder, or it does not take images of these sizes.
    """
    width = ghostnet_width(encoder)
    if width == 0:
        raise OptionError("has no width", fix="give ghostnet_100", parameter="encoder").at(
            f"`encoder={encoder}`"
        )
    if width is not None:
        network: nn.Module = ghostnet_classifier(width, BANDS, classes)
    else:
        network = _timm_classifier(encoder, classes)
    for size in sizes:
        _check_size(network, encoder, size)
    return network


def ghostnet_width(encoder: str) -> float | None:
    """Return the width of a GhostNet, e.g. 1.3 of ``ghostnet_130``; None for other encoders."""
    match = _GHOSTNET.fullmatch(encoder)
    return int(match[1]) / 100 if match else None


def _timm_classifier(encoder: str, classes: int) -> Any:
    try:
        check_timm_name(encoder)
    except HrrsiError as error:
        raise OptionError(error.what, fix=error.fix, parameter="encoder").at(
            f"`encoder={encoder}`"
        ) from error
    try:
        return timm.create_model(encoder, num_classes=classes, in_chans=BANDS)
    except Exception as error:  # whatever a model's own constructor raises
        raise OptionError(
            f"timm can't build it as a classifier ({first_line(error)})",
            fix="choose another encoder",
            parameter="encoder",
        ).at(f"`encoder={encoder}`") from error


def _check_size(network: nn.Module, encoder: str, size: int) -> None:
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, BANDS, size, size))
    except Exception as error:  # encoders that take one size say so in many ways
        raise OptionError(
            f"does not take images of {size} px ({first_line(error)})",
            fix="give other `size` and `val_size`",
            parameter="encoder",
        ).at(f"`encoder={encoder}`") from error
    finally:
        network.train()


def _logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = network(images)
    return logits


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
        super().__init__(options, ENCODER_WEIGHTS, "val_top1", report)
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
        with replacing(self._weights) as temporary:
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
