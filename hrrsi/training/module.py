"""Segmentation as a task: training and validation steps, optimiser, schedule, moving average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hrrsi.classes import IGNORE_INDEX
from hrrsi.evaluation.options import ALL
from hrrsi.evaluation.scores import ConfusionMatrix, Scores
from hrrsi.networks.model_meta import normalisation
from hrrsi.networks.network import SegmentationNetwork
from hrrsi.runs.processes import averaged, gathered, rank, summed, world_size
from hrrsi.runs.task import Task
from hrrsi.tiling.dataset import DatasetDescription
from hrrsi.training.distillation import EncoderMaps, FeatureMatching, Teachers, map_channels
from hrrsi.training.losses import batch_losses, candidate_table, label_weights, segmentation_loss
from hrrsi.training.options import Recipe, TrainOptions

_MOMENTUM = 0.9
_POLYNOMIAL_POWER = 0.9

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


class SegmentationTraining(Task):
    """Trains a network under a recipe, and validates it with a confusion matrix a dataset.

    Args:
        network: The network.
        options: Recipe, frozen epochs, compilation.
        description: Normalisation, classes and their frequencies.
        steps: Steps of the whole run.
        names: Names of the training patches, by index.
        teachers: Networks that it learns from too, or None.
        datasets: How many datasets validation patches come from.
        keeps_statistics: Whether batch norms keep the running statistics that they start with, and
            normalise by these: those of a few scenes would take the place of what many have shown.

    Attributes:
        network: What is trained.
        options: Options of the run.
        teachers: Networks that it learns from too, or None.
        feature_matching: What its encoder's maps are compared with theirs by, or None.
        matrices: Pixels of the epoch's validation patches of each dataset, over all processes.
        validation_loss: Class-weighted cross-entropy of these patches, summed over pixels and
            divided by their number as the published losses are; patches without any label
            don't count.
    """

    _gain: torch.Tensor
    _offset: torch.Tensor
    _label_weights: torch.Tensor
    _candidates: torch.Tensor
    _counts: torch.Tensor
    _validated: torch.Tensor

    def __init__(
        self,
        network: SegmentationNetwork,
        options: TrainOptions,
        description: DatasetDescription,
        steps: int,
        names: Sequence[str] = (),
        teachers: Teachers | None = None,
        datasets: int = 1,
        *,
        keeps_statistics: bool = False,
    ) -> None:
        super().__init__(names)
        self._keeps_statistics = keeps_statistics
        self.teachers = teachers
        self.feature_matching: FeatureMatching | None = None
        if teachers is not None and options.recipe.features:
            channels = map_channels(network, f"`model={options.model}`")
            self.feature_matching = FeatureMatching(channels, teachers.channels)
        self.network = network.to(memory_format=torch.channels_last)
        average = options.recipe.average
        self._average = MovingAverage(self.network, average) if average else None
        self.averaged_network: SegmentationNetwork | None = (
            None if self._average is None else self._average.network
        )
        self.options = options
        self._classes = description.classes
        self._total_steps = steps
        gain, offset = normalisation(description.scale, description.mean, description.std)
        self.register_buffer("_gain", torch.from_numpy(gain), persistent=False)
        self.register_buffer("_offset", torch.from_numpy(offset), persistent=False)
        candidates = candidate_table(description)
        self.register_buffer("_candidates", candidates, persistent=False)
        weights = label_weights(
            torch.tensor(description.class_frequencies),
            candidates,
            equal=options.recipe.class_weights != "published",
        )
        self.register_buffer("_label_weights", weights, persistent=False)
        counts = torch.zeros(datasets, candidates.numel() + 1, dtype=torch.int64)
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
        self._labels = description.candidates
        self.matrices = [self._matrix() for _ in range(datasets)]
        self.validation_loss = math.nan

    @property
    def kept_network(self) -> SegmentationNetwork:
        """What is validated and kept: the moving average of the recipe, or what is trained."""
        return self.network if self.averaged_network is None else self.averaged_network

    @property
    def score(self) -> str:
        """The last validation's mIoU, in percent."""
        return f"mIoU {100 * self.mean_iou:.2f}"

    @property
    def matrix(self) -> ConfusionMatrix:
        """Pixels of all validation patches of the epoch, over all datasets and processes."""
        whole = self._matrix()
        for matrix in self.matrices:
            whole.merge(matrix)
        return whole

    @property
    def mean_iou(self) -> float:
        """Mean of the last validation's mIoU over the datasets where it is defined, 0 to 1."""
        return defined_mean(scores.mean_iou for scores in self.dataset_scores)

    @property
    def dataset_scores(self) -> list[Scores]:
        """The last validation's scores of each dataset.

        None counts classes that its labels don't show, in which it can only be wrong: a stray pixel
        of such a class would decide which epoch is the best.
        """
        return [scores_of_shown_classes(matrix) for matrix in self.matrices]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._counts.device

    @property
    def losses(self) -> dict[str, float]:
        """Mean of the loss and of each of its parts so far in this epoch.

        Of this process' steps, and from validation on of those of all processes.
        """
        if self._sums is None:
            return {}
        means = (self._sums / self._steps).tolist()
        return {"loss": sum(means), **dict(zip(self._names, means, strict=True))}

    def forward(self, batch: Any) -> torch.Tensor:
        """Return the sum of the losses of a batch (image, label, index)."""
        pixels, recipe = self.normalised(batch[0]), self.options.recipe
        teaching = None if self.teachers is None else self.teachers.teaching(pixels)
        # the hook of the maps is there only where they are looked at
        watched = nullcontext() if self.feature_matching is None else EncoderMaps(self.network)
        with watched as encoder:
            losses = self._step(
                self.network,
                pixels,
                batch[1],
                self._label_weights,
                self._candidates,
                recipe,
                None if teaching is None else teaching.probabilities,
            )
        if encoder is not None and teaching is not None and self.feature_matching is not None:
            distance = self.feature_matching(encoder.maps, teaching.maps)
            losses["feature_loss"] = recipe.features * distance
        values = torch.stack(list(losses.values()))
        self._names = tuple(losses)
        step_losses = values.detach().double()
        self._sums = step_losses if self._sums is None else self._sums + step_losses
        self._steps += 1
        return values.sum()

    def before_step(self) -> None:
        """Leave a frozen encoder out of the step."""
        if self._is_frozen:
            for parameter in self.network.encoder.parameters():
                parameter.grad = None

    def after_step(self, step: int) -> None:
        """Move the average of the weights, where there is one."""
        if self._average is not None:
            self._average.move(self.network, step)

    def validate(self, batch: Any) -> None:
        """Count the pixels of a batch (image, label) and add up their loss, on the device.

        Of several datasets, its patches are of one, whose number (N,) comes third.
        """
        image, label, *numbers = batch
        network, pixels = self.kept_network, self.normalised(image)
        # resized in half precision, classes would tie, and the lower one win
        logits = network.resized(network.coarse_logits(pixels).float(), pixels)
        predictions = logits.argmax(1)
        pairs = predictions * len(self._candidates) + label
        unlabelled, ignored = self._counts.shape[1] - 1, label == IGNORE_INDEX
        pairs = pairs.masked_fill(ignored, unlabelled)
        counts = torch.bincount(pairs.flatten(), minlength=unlabelled + 1)
        dataset = numbers[0][:1] if numbers else torch.zeros_like(counts[:1])
        self._counts.index_add_(0, dataset, counts[None])
        loss = segmentation_loss(logits, label, self._label_weights, self._candidates)
        # those that fill up a process' share have no label at all
        patches = (~ignored).flatten(1).any(1).sum()
        self._validated[0] += loss.double() * label.numel()
        self._validated[1] += patches * label[0].numel()

    def train(self, mode: bool = True) -> Self:
        """Choose the mode of the network; a frozen encoder's is another one than the rest's.

        Args:
            mode: Whether to train; else to evaluate.
        """
        super().train(mode)
        if self.averaged_network is not None:
            self.averaged_network.eval()
        if self.options.freeze_encoder:
            encoder = self.network.encoder
            # running statistics of the old data stay what they are
            encoder.train(mode and not self._is_frozen)
            if world_size() == 1:  # DDP waits for the gradients of all it knows
                encoder.requires_grad_(not self._is_frozen)
        if self._keeps_statistics:
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def start_epoch(self) -> None:
        """Forget the losses of the last epoch."""
        self._sums, self._steps = None, 0

    def start_validation(self) -> None:
        """Forget the counts of the last validation; share losses and running statistics."""
        self._counts.zero_()
        self._validated.zero_()
        if self._sums is not None:
            self._sums = averaged(self._sums)
        self.share_statistics()

    def end_validation(self) -> None:
        """Add up the counts and losses of all processes."""
        counts = summed(self._counts)[:, :-1].cpu().numpy()
        shape = (len(self._classes), len(self._labels))
        self.matrices = [self._matrix(own.reshape(shape)) for own in counts]
        loss, pixels = summed(self._validated).tolist()
        self.validation_loss = loss / pixels if pixels else math.nan

    def network_buffers(self) -> list[torch.Tensor]:
        """Return the buffers of the network and its average.

        None on GPUs, where SyncBatchNorm has made them equal already.
        """
        if self.device.type != "cpu":
            return []
        networks = filter(None, (self.network, self.averaged_network))
        return [buffer for network in networks for buffer in network.buffers()]

    def counts(self) -> dict[str, Any]:
        """Return the losses of the running epoch, of each process."""
        sums = None if self._sums is None else self._sums.cpu()
        return {"names": list(self._names), "steps": self._steps, "sums": gathered(sums)}

    def load_counts(self, counts: dict[str, Any]) -> None:
        """Take back what `counts` returned."""
        self._names, self._steps = tuple(counts["names"]), int(counts["steps"])
        sums = counts["sums"][rank()]
        if sums is not None and sums.shape != (len(self._names),):
            raise ValueError("there are not as many sums as losses")
        self._sums = None if sums is None else sums.to(self.device)

    def optimizer_and_schedule(
        self,
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return the recipe's optimiser and schedule."""
        trained: nn.Module = self.network
        if self.feature_matching is not None:
            trained = nn.ModuleList([self.network, self.feature_matching])
        return optimizer_and_schedule(trained, self.options.recipe, self._total_steps)

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

    def _matrix(self, counts: npt.NDArray[np.int64] | None = None) -> ConfusionMatrix:
        return ConfusionMatrix(self._classes, counts, self._labels)

    @property
    def _is_frozen(self) -> bool:
        return self.epoch < self.options.freeze_encoder


class MovingAverage:
    """The exponential moving average of a network's weights and running statistics.

    It is torch's, whose decay follows the steps: early on it is lower than the recipe's, or the
    average would hold on to the random start, as with the warm-up of TensorFlow's
    ``ExponentialMovingAverage``. Counters of BatchNorms are copied.

    Args:
        network: The network before the first step.
        decay: Share that the average keeps of itself at most, 0 to 1.

    Attributes:
        network: The average, in eval mode and without gradients; it may be moved to a device. (What
            counts the steps stays on the processor: asking a GPU for it would wait for each step.)
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._step = 0
        self._average = AveragedModel(network, multi_avg_fn=self._move, use_buffers=True)
        self._average.update_parameters(network)  # the first only copies
        self.network: Any = self._average.module.eval().requires_grad_(False)

    def move(self, network: nn.Module, step: int) -> None:
        """Move the average towards a network: ``decay * average + (1 - decay) * network``.

        Args:
            network: The network after a step.
            step: Steps done before.
        """
        self._step = step
        self._average.update_parameters(network)

    def _move(self, average: Tensors, network: Tensors, _count: Any) -> None:
        if average[0].is_floating_point():
            decay = decay_at(self._step, self._decay)
            move: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch
            move(average, network, _count)
        else:
            for counter, counted in zip(average, network, strict=True):
                counter.copy_(counted)


def scores_of_shown_classes(matrix: ConfusionMatrix) -> Scores:
    """Return the scores of a matrix; classes without a true pixel have no IoU, and no F1."""
    absent = [own.name for own in matrix.scores().classes if not own.pixels]
    scores = matrix.scores(replace(ALL, left_out_of_means=tuple(absent)))
    classes = [
        replace(own, f1=math.nan, iou=math.nan) if own.name in absent else own
        for own in scores.classes
    ]
    return replace(scores, classes=tuple(classes))


def defined_mean(scores: Iterable[float]) -> float:
    """Return the mean of those scores that are numbers; not a number where none is."""
    defined = [score for score in scores if not math.isnan(score)]
    return sum(defined) / len(defined) if defined else math.nan


def decay_at(step: int, decay: float) -> float:
    """Return the share that an average keeps of itself at a step, 0 to 1.

    Args:
        step: Steps done before.
        decay: The recipe's decay.
    """
    return min(decay, (1 + step) / (10 + step))


def optimizer_and_schedule(
    network: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return a recipe's optimiser, and the schedule of its learning rate, which moves each step.

    AdamW does not decay biases and BatchNorms; the published SGD decays everything.

    Args:
        network: What is trained.
        recipe: Optimiser, learning rate, weight decay and schedule.
        steps: Steps of the whole run, over all epochs.
    """
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            network.parameters(), recipe.lr, momentum=_MOMENTUM, weight_decay=recipe.weight_decay
        )
    else:
        kernels, vectors = _kernels_and_vectors(network.parameters())
        groups = [
            {"params": kernels, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], recipe.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(recipe, step, steps)
    )
    return optimizer, schedule


def learning_rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """Return the share of the highest learning rate that a step uses, 0 to 1.

    Args:
        recipe: Schedule and warm-up.
        step: Number of steps done before.
        steps: Steps of the whole run.
    """
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    remaining = max(0.0, 1 - (step - warmup) / max(1, steps - warmup))
    if recipe.schedule == "polynomial":
        return float(remaining**_POLYNOMIAL_POWER)
    return (1 - math.cos(math.pi * remaining)) / 2


def _kernels_and_vectors(
    parameters: Iterable[nn.Parameter],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    kernels: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (kernels if parameter.ndim > 1 else vectors).append(parameter)
    return kernels, vectors


def _losses(
    network: nn.Module,
    image: torch.Tensor,
    label: torch.Tensor,
    weights: torch.Tensor,
    candidates: torch.Tensor,
    recipe: Any,
    teaching: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    return batch_losses(network(image), label, weights, candidates, recipe, teaching)
