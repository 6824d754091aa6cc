"""The order in which a run draws patches: decided by seed and epoch, shared among processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """A patch of an epoch; all that decides its augmentation, whichever process reads it.

    Attributes:
        epoch: The epoch, from 0.
        patch: The patch.
        repeat: How often the epoch had this patch before.
    """

    epoch: int
    patch: int
    repeat: int


class EpochOrder:
    """The order in which an epoch sees the patches.

    Args:
        patches: Number of patches; an epoch has as many draws, where `parts` doesn't say it.
        seed: Decides the order, with the epoch.
        weights: (patches,) probability of each with every draw; None: each once.
        epoch: The epoch to begin with.
        parts: Number of patches of each part of them, one after the other, and of draws among
            these: all come equally often, to one, or by `weights`. None: all are one part.

    Attributes:
        length: Draws of an epoch.
        epoch: The epoch.
    """

    def __init__(
        self,
        patches: int,
        seed: int,
        weights: npt.NDArray[np.float64] | None = None,
        epoch: int = 0,
        parts: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.length = patches if parts is None else sum(count for _, count in parts)
        self.epoch = epoch
        self._patches = patches
        self._seed = seed
        self._weights = weights
        self._parts = parts

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self.epoch = epoch

    def draws(self) -> list[Draw]:
        """Return the patches of the epoch in their order."""
        random = np.random.default_rng((self._seed, self.epoch))
        if self._parts is not None:
            order = self._mixed_order(random)
        elif self._weights is None:
            order = random.permutation(self._patches)
        else:
            order = random.choice(self._patches, self._patches, p=self._weights)
        seen: Counter[int] = Counter()
        draws = []
        for index in map(int, order):
            draws.append(Draw(self.epoch, index, seen[index]))
            seen[index] += 1
        return draws

    def _mixed_order(self, random: np.random.Generator) -> npt.NDArray[np.int64]:
        first, drawn = 0, []
        for patches, count in self._parts or ():
            if self._weights is None:
                rounds = -(-count // patches) if patches else 0
                order = [random.permutation(patches) for _ in range(rounds)]
                chosen = np.concatenate([*order, np.zeros(0, dtype=np.int64)])[:count]
            else:
                weights = self._weights[first : first + patches]
                chosen = random.choice(patches, count, p=weights / weights.sum())
            drawn.append(first + chosen)
            first += patches
        return random.permutation(np.concatenate(drawn))


class ProcessBatches(Sampler[list[Draw]]):
    """A process' share of each batch; all processes together see what one alone would.

    A last batch that is not full is left out, unless it is the only one: BatchNorm can't
    estimate its statistics from a single small map.

    Args:
        sampler: The order of the epochs.
        batch: Patches of a step, over all processes.
        rank: This process.
        processes: How many share a batch; they divide it.
        first: Batches of the first epoch that were trained on before.
    """

    def __init__(
        self, sampler: EpochOrder, batch: int, *, rank: int = 0, processes: int = 1, first: int = 0
    ) -> None:
        self.sampler = sampler
        self._batch = min(batch, sampler.length)
        self._share = self._batch // processes
        self._rank = rank
        self._resumed = (sampler.epoch, first)

    def __len__(self) -> int:
        return self.sampler.length // self._batch

    @property
    def images(self) -> int:
        """Patches of an epoch, over all processes."""
        return len(self) * self._batch

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = self.sampler.draws()
        epoch, first = self._resumed
        for number in range(first if self.sampler.epoch == epoch else 0, len(self)):
            start = number * self._batch + self._rank * self._share
            yield draws[start : start + self._share]
