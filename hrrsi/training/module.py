"""One training step and one validation step, as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import nn

from hrrsi.classes import IGNORE_INDEX
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.networks.model_meta import normalisation
from hrrsi.networks.network import SegmentationNetwork
from hrrsi.runs.processes import averaged, gathered, summed
from hrrsi.tiling.dataset import DatasetDescription
from hrrsi.training.losses import batch_losses, class_weights
from hrrsi.training.optimisation import (
    averaged_copy,
    decay_at,
    optimizer_and_schedule,
    update_average,
)
from hrrsi.training.options import TrainOptions

_SUMS = "loss_sums"


class SegmentationTraining(lightning.LightningModule):
    """Trains a network under a recipe, and validates it with one confusion matrix.

    Args:
        network: The network.
        options: Recipe, frozen epochs, compilation.
        description: Normalisation, classes and their frequencies.
        steps: Steps of the whole run.

    Attributes:
        network: What is trained.
        options: Options of the run.
        matrix: Pixels of all validation patches of the epoch, over all processes.
        validation_loss: Class-weighted cross-entropy of these patches, summed over pixels and
            divided by their number as the published losses are; patches without any label
            don't count.
    """

    _gain: torch.Tensor
    _offset: torch.Tensor
    _class_weights: torch.Tensor
    _counts: torch.Tensor
    _validated: torch.Tensor

    def __init__(
        self,
        network: SegmentationNetwork,
        options: TrainOptions,
        description: DatasetDescription,
        steps: int,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self._average = averaged_copy(self.network) if options.recipe.average else None
        self.options = options
        self._classes = description.classes
        self._total_steps = steps
        gain, offset = normalisation(description.scale, description.mean, description.std)
        self.register_buffer("_gain", torch.from_numpy(gain), persistent=False)
        self.register_buffer("_offset", torch.from_numpy(offset), persistent=False)
        frequencies = torch.tensor(description.class_frequencies)
        published = options.recipe.class_weights == "published"
        weights = class_weights(frequencies) if published else torch.ones_like(frequencies)
        self.register_buffer("_class_weights", weights, persistent=False)
        pairs = len(self._classes) ** 2
        counts = torch.zeros(pairs + 1, dtype=torch.int64)
        self.register_buffer("_counts", counts, persistent=False)
        # sum of the losses of pixels, and pixels
        validated = torch.zeros(2, dtype=torch.float64)
        self.register_buffer("_validated", validated, persistent=False)
        self._step: Callable[..., dict[str, torch.Tensor]] = (
            torch.compile(_losses) if options.compile else _losses
        )
        self._names: tuple[str, ...] = ()
        self._sums: torch.Tensor | None = None
        self._steps = 0
        self.matrix = ConfusionMatrix(self._classes)
        self.validation_loss = math.nan

    @property
    def kept_network(self) -> SegmentationNetwork:
        """What is validated and kept: the moving average of the recipe, or what is trained."""
        return self.network if self._average is None else self._average

    @property
    def losses(self) -> dict[str, float]:
        """Mean of the loss and of each of its parts so far in this epoch.

        Of this process' steps, and from validation on of those of all processes.
        """
        if self._sums is None:
            return {}
        means = (self._sums / self._steps).tolist()
        return {"loss": sum(means), **dict(zip(self._names, means, strict=True))}

    def training_step(self, batch: Any, _index: int) -> torch.Tensor:
        """Return the sum of the losses of a batch (image, label, index)."""
        losses = self._step(
            self.network,
            self.normalised(batch[0]),
            batch[1],
            self._class_weights,
            self.options.recipe,
        )
        values = torch.stack(list(losses.values()))
        self._names = tuple(losses)
        done = values.detach().double()
        self._sums = done if self._sums is None else self._sums + done
        self._steps += 1
        return values.sum()

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Make a step, and move the average after it."""
        step = self.trainer.global_step
        super().optimizer_step(*arguments, **named)
        self.move_average(step)

    def move_average(self, step: int) -> None:
        """Move the average of the weights, where there is one, after so many steps before."""
        if self._average is not None:
            decay = decay_at(step, self.options.recipe.average)
            update_average(self._average, self.network, decay)

    def validation_step(self, batch: Any, _index: int) -> None:
        """Count the pixels of a batch (image, label) and add up their loss, on the device."""
        image, label = batch
        network, pixels = self.kept_network, self.normalised(image)
        # resized in half precision, classes would tie, and the lower one win
        logits = network.resized(network.coarse_logits(pixels).float(), pixels)
        found = logits.argmax(1)
        pairs = found * len(self._classes) + label
        unlabelled, ignored = len(self._counts) - 1, label == IGNORE_INDEX
        pairs = pairs.masked_fill(ignored, unlabelled)
        self._counts += torch.bincount(pairs.flatten(), minlength=unlabelled + 1)
        losses = F.cross_entropy(
            logits, label.long(), self._class_weights, ignore_index=IGNORE_INDEX, reduction="none"
        )
        # those that fill up a process' share have no label at all
        patches = (~ignored).flatten(1).any(1).sum()
        self._validated[0] += losses.sum(dtype=torch.float64)
        self._validated[1] += patches * label[0].numel()

    def on_train_start(self) -> None:
        """Freeze or release the encoder: a run that goes on may be in the middle of an epoch."""
        self._freeze_or_release()

    def on_train_epoch_start(self) -> None:
        """Forget the losses of the last epoch; freeze or release the encoder."""
        self._sums, self._steps = None, 0
        self._freeze_or_release()

    def on_validation_start(self) -> None:
        """Forget the counts of the last epoch; share losses and running statistics."""
        self._counts.zero_()
        self._validated.zero_()
        if self._sums is not None:
            self._sums = averaged(self._sums)
        self.share_statistics()

    def on_validation_epoch_end(self) -> None:
        """Add up the counts and losses of all processes."""
        classes = len(self._classes)
        counts = summed(self._counts)[:-1].reshape(classes, classes)
        self.matrix = ConfusionMatrix(self._classes, counts.cpu().numpy())
        loss, pixels = summed(self._validated).tolist()
        self.validation_loss = loss / pixels if pixels else math.nan

    def share_statistics(self) -> None:
        """Average BatchNorm's running statistics over the processes, which each have their own.

        On GPUs SyncBatchNorm has made them equal already.
        """
        if self.device.type != "cpu" or self.trainer.world_size == 1:
            return
        buffers = list(self.network.buffers())
        if self._average is not None:
            buffers += self._average.buffers()
        for buffer in buffers:
            if buffer.is_floating_point():
                buffer.copy_(averaged(buffer))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the losses of the running epoch, of each process."""
        sums = None if self._sums is None else self._sums.cpu()
        checkpoint[_SUMS] = {
            "names": list(self._names),
            "steps": self._steps,
            "sums": gathered(sums),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the losses of the running epoch back."""
        kept = checkpoint[_SUMS]
        self._names, self._steps = tuple(kept["names"]), kept["steps"]
        sums = kept["sums"][self.global_rank]
        self._sums = None if sums is None else sums.to(self.device)

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimiser and schedule, stepped each iteration."""
        return optimizer_and_schedule(self.network, self.options.recipe, self._total_steps)

    def normalised(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the network is given, float32 and channels last.

        Args:
            image: (N, bands, H, W) in the patches' values and type.
        """
        pixels = image.to(torch.float32, memory_format=torch.channels_last)
        pixels = pixels * self._gain + self._offset
        if image.is_floating_point():  # where there is no data, the mean of the band
            pixels = pixels.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return pixels

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Leave a frozen encoder out of the step."""
        if self._is_frozen:
            for parameter in self.network.encoder.parameters():
                parameter.grad = None

    @property
    def _is_frozen(self) -> bool:
        return self.current_epoch < self.options.freeze_encoder

    def _freeze_or_release(self) -> None:
        if not self.options.freeze_encoder:
            return
        encoder = self.network.encoder
        encoder.train(not self._is_frozen)  # running statistics of the old data stay what they are
        if self.trainer.world_size == 1:  # DDP waits for the gradients of all it knows
            encoder.requires_grad_(not self._is_frozen)


def _losses(
    network: nn.Module, image: torch.Tensor, label: torch.Tensor, weights: torch.Tensor, recipe: Any
) -> dict[str, torch.Tensor]:
    return batch_losses(network(image), label, weights, recipe)
