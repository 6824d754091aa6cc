"""One training step and one validation step of a classifier, as a Lightning module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import nn

from hrrsi.pretraining.epoch_images import ImageBatch
from hrrsi.pretraining.options import PretrainRecipe, learning_rate_share
from hrrsi.runs.processes import averaged, gathered

# Of ImageNet's training images, from 0 to 1: what timm's and torchvision's weights expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TOP = 5
_LOSS, _RIGHT, _AMONG_TOP, _IMAGES, _SKIPPED = range(5)
_SUMS = "sums"


class ClassifierTraining(lightning.LightningModule):
    """Trains a classifier with smoothed labels, and validates it with top-1 and top-5.

    Args:
        network: The classifier.
        recipe: Learning rate, smoothing.
        steps: Steps of the whole run.
        compiled: Whether to compile the network first.

    Attributes:
        network: The classifier.
    """

    _gain: torch.Tensor
    _offset: torch.Tensor

    def __init__(
        self, network: nn.Module, recipe: PretrainRecipe, steps: int, *, compiled: bool = False
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self._recipe = recipe
        self._steps = steps
        self._logits: Callable[[nn.Module, torch.Tensor], torch.Tensor] = (
            torch.compile(_logits) if compiled else _logits
        )
        std = torch.tensor(STD)[:, None, None]
        self.register_buffer("_gain", 1 / (255 * std), persistent=False)
        self.register_buffer("_offset", -torch.tensor(MEAN)[:, None, None] / std, persistent=False)
        # no buffers: those of the first process would replace the others' when a run goes on
        self._trained = torch.zeros(5, dtype=torch.float64)
        self._validated = torch.zeros(5, dtype=torch.float64)

    @property
    def losses(self) -> dict[str, float]:
        """Mean of the loss over the images of this epoch so far.

        Of this process' images, and from validation on of those of all processes.
        """
        return {"loss": float(self._trained[_LOSS] / self._trained[_IMAGES].clamp(min=1))}

    @property
    def last_learning_rate(self) -> float:
        """The learning rate of the last step."""
        return self._recipe.lr * learning_rate_share(self.trainer.global_step - 1, self._steps)

    @property
    def metrics(self) -> dict[str, float]:
        """What an epoch came to, once it is validated; over all processes."""
        processes = self.trainer.world_size
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

    def training_step(self, batch: ImageBatch, _index: int) -> torch.Tensor:
        """Return the smoothed cross-entropy of a batch."""
        self._trained[_SKIPPED] += len(batch.skipped)
        if not len(batch.labels):
            # every image of this share is corrupt; the other processes still wait for gradients
            return 0.0 * torch.stack([p.sum() for p in self.network.parameters()]).sum()
        logits = self._logits(self.network, self._normalised(batch.images)).float()
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self._recipe.label_smoothing)
        self._count(self._trained, logits.detach(), batch.labels, loss.detach())
        return loss

    def validation_step(self, batch: ImageBatch, _index: int) -> None:
        """Count the images of a batch; their loss is not smoothed."""
        self._validated[_SKIPPED] += len(batch.skipped)
        if len(batch.labels):
            logits = self._logits(self.network, self._normalised(batch.images)).float()
            self._count(
                self._validated, logits, batch.labels, F.cross_entropy(logits, batch.labels)
            )

    def on_train_start(self) -> None:
        """Count where the images are."""
        self._trained = self._trained.to(self.device)
        self._validated = self._validated.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Forget the counts of the last epoch."""
        self._trained.zero_()

    def on_validation_start(self) -> None:
        """Average the training's counts over the processes, and share running statistics."""
        self._validated.zero_()
        self._trained.copy_(averaged(self._trained))  # may come again: after a resumed validation
        self.share_statistics()

    def on_validation_epoch_end(self) -> None:
        """Average the counts over the processes."""
        self._validated.copy_(averaged(self._validated))

    def share_statistics(self) -> None:
        """Average BatchNorm's running statistics over the processes, which each have their own."""
        for buffer in self.network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(averaged(buffer))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the counts of the running epoch, of each process."""
        checkpoint[_SUMS] = gathered(self._trained.cpu().clone())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counts of the running epoch back."""
        self._trained = checkpoint[_SUMS][self.global_rank]

    def configure_optimizers(self) -> Any:
        """Return SGD and its schedule, stepped each iteration."""
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
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

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


def _logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = network(images)
    return logits
