"""The published training step, as a Lightning module."""

from typing import Any

import lightning
import torch

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.networks.segmentation import UED
from hrrsi.tiling.dataset import DatasetDescription
from hrrsi.training.losses import (
    body_loss,
    class_weights,
    edge_loss,
    edge_target,
    segmentation_loss,
)
from hrrsi.training.options import TrainOptions

_MOMENTUM = 0.9
_POLYNOMIAL_POWER = 0.9


class SegmentationTraining(lightning.LightningModule):
    """Trains a network with the three published losses and validates it with one matrix.

    Args:
        network: The network.
        options: Learning rate, weight decay.
        description: Normalisation, classes and their frequencies.

    Attributes:
        network: The network.
        losses: Mean of each loss over the training steps of the epoch.
        matrix: Confusion matrix of the validation patches of the epoch.
    """

    _offset: torch.Tensor
    _divisor: torch.Tensor
    _class_weights: torch.Tensor

    def __init__(self, network: UED, options: TrainOptions, description: DatasetDescription):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self._options = options
        self._classes = description.classes
        scale = torch.tensor(description.scale, dtype=torch.float32)
        mean = torch.tensor(description.mean, dtype=torch.float32)[:, None, None]
        std = torch.tensor(description.std, dtype=torch.float32)[:, None, None]
        self.register_buffer("_offset", mean * scale, persistent=False)
        self.register_buffer("_divisor", std * scale, persistent=False)
        weights = class_weights(torch.tensor(description.class_frequencies))
        self.register_buffer("_class_weights", weights, persistent=False)
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0
        self.matrix = ConfusionMatrix(self._classes)

    def _normalised(self, image: torch.Tensor) -> torch.Tensor:
        image = (image.float() - self._offset) / self._divisor
        return image.contiguous(memory_format=torch.channels_last)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """Return the sum of the losses of a batch (image, label)."""
        image, label = batch[0], batch[1].long()
        maps = self.network(self._normalised(image))
        with torch.autocast(self.device.type, enabled=False):
            weights = self._class_weights
            losses = {"segmentation_loss": segmentation_loss(maps["lbl"].float(), label, weights)}
            if "bdy" in maps:
                losses["body_loss"] = body_loss(maps["bdy"].float(), label, weights)
            if "edg" in maps:
                losses["edge_loss"] = edge_loss(maps["edg"].float(), edge_target(label))
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise HrrsiError(
                f"the loss is {float(loss.detach())} in epoch {self.current_epoch + 1}, "
                f"step {index + 1}",
                where=self._options.run_folder,
                fix="lower --lr, or give --precision 32",
            )
        self._steps += 1
        for key, value in {"loss": loss, **losses}.items():
            self._sums[key] = self._sums.get(key, torch.zeros_like(value)) + value.detach()
        return loss

    @property
    def losses(self) -> dict[str, float]:
        """Mean of each loss over the steps of this epoch."""
        return {key: float(value) / self._steps for key, value in self._sums.items()}

    def on_train_epoch_start(self) -> None:
        """Forget the losses of the last epoch."""
        self._sums, self._steps = {}, 0

    def on_validation_epoch_start(self) -> None:
        """Forget the counts of the last epoch."""
        self.matrix = ConfusionMatrix(self._classes)

    def validation_step(self, batch: Any, _index: int) -> None:
        """Count the pixels of a batch (image, label)."""
        image, label = batch
        self.matrix.add(self.network(self._normalised(image))["lbl"].argmax(1), label)

    def configure_optimizers(self) -> Any:
        """Return SGD and the polynomial decay, stepped each iteration."""
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=self._options.lr,
            momentum=_MOMENTUM,
            weight_decay=self._options.weight_decay,
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: max(0.0, 1 - step / steps) ** _POLYNOMIAL_POWER
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
