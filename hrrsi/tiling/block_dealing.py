"""Blocks dealt out to train, val and test, so that classes have the same shares in each.

By iterative stratification (Sechidis et al. 2011, "On the Stratification of Multi-Label Data"), the
rarest class first; then the move or swap of blocks that brings the shares of classes and pixels
nearest to those that are asked for, as long as there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt

from hrrsi.labels.splits import Part

PARTS: tuple[Part, ...] = get_args(Part)
_MOST_CHANGES = 500
_SWAPS = 2000  # looked at for each change

Counts = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


def dealt_parts(counts: Counts, shares: Sequence[float], seed: int) -> list[Part]:
    """Return the part of each block.

    Args:
        counts: (blocks, labels) pixels; each block has some.
        shares: The share of each part, which make 1.
        seed: Chooses among equals.
    """
    random = np.random.default_rng(seed)
    part_indices = np.flatnonzero(shares).tolist()
    parts = _stratified(counts, shares, random)
    for part in part_indices:  # none may go empty
        if not (parts == part).any():
            fullest = np.flatnonzero(parts == np.bincount(parts).argmax())
            parts[fullest[counts[fullest].sum(axis=1).argmin()]] = part
    part_counts: Counts = np.stack(
        [counts[parts == part].sum(axis=0) for part in range(len(PARTS))]
    )
    best = float(_distances(part_counts[np.newaxis], shares)[0])
    for _ in range(_MOST_CHANGES):
        blocks, new = _changes(parts, part_indices, random)
        changed = _held_after(part_counts, counts, parts, blocks, new)
        distances = _distances(changed, shares)
        distances[(changed[:, part_indices].sum(axis=2) == 0).any(axis=1)] = np.inf
        nearest = int(distances.argmin()) if len(distances) else 0
        if not len(distances) or distances[nearest] >= best - 1e-12:
            break
        best, part_counts = float(distances[nearest]), changed[nearest]
        parts[blocks[nearest]] = new[nearest]
    return [PARTS[part] for part in parts]


def _stratified(counts: Counts, shares: Sequence[float], random: np.random.Generator) -> Indices:
    """Return the part of each block by iterative stratification."""
    parts = np.full(len(counts), -1)
    lots = random.permutation(len(counts))
    quotas = np.multiply.outer(np.array(shares), counts.sum(axis=0).astype(np.float64))
    part_indices = np.flatnonzero(shares).tolist()
    while (parts < 0).any():
        rest = np.flatnonzero(parts < 0)
        holding = (counts[rest] > 0).sum(axis=0)
        if not holding.any():
            parts[rest] = part_indices[0]
            break
        rarest = int(np.where(holding > 0, holding, len(counts) + 1).argmin())
        of_class = [int(block) for block in rest if counts[block, rarest]]
        for block in sorted(of_class, key=lambda b: (-counts[b, rarest], lots[b])):
            part = max(part_indices, key=lambda p: (quotas[p, rarest], quotas[p].sum()))
            parts[block] = part
            quotas[part] -= counts[block]
    return parts


def _changes(
    parts: Indices, part_indices: Sequence[int], random: np.random.Generator
) -> tuple[Indices, Indices]:
    """Return two blocks, which may be one twice, and the parts that they could have instead.

    Returns:
        (changes, 2) blocks, (changes, 2) parts: every move of one block, and a sample of pairs that
        change places.
    """
    moved = np.repeat(np.arange(len(parts)), len(part_indices))
    to = np.tile(np.array(part_indices), len(parts))
    pairs = random.integers(len(parts), size=(_SWAPS, 2))
    blocks = np.concatenate([np.stack([moved, moved], axis=1), pairs])
    new = np.concatenate([np.stack([to, to], axis=1), parts[pairs[:, ::-1]]])
    differs = (new != parts[blocks]).any(axis=1)
    return blocks[differs], new[differs]


def _held_after(
    part_counts: Counts, counts: Counts, parts: Indices, blocks: Indices, new: Indices
) -> Counts:
    """Return what parts would hold after each change, (changes, parts, labels)."""
    changed = np.repeat(part_counts[np.newaxis], len(blocks), axis=0)
    number = np.arange(len(blocks))
    for place in (0, 1):
        once = np.ones(len(blocks), dtype=bool) if not place else blocks[:, 0] != blocks[:, 1]
        moved = np.where(once[:, np.newaxis], counts[blocks[:, place]], 0)
        changed[number, parts[blocks[:, place]]] -= moved
        changed[number, new[:, place]] += moved
    return changed


def _distances(part_counts: Counts, shares: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return how far shares of pixels, and of classes on average, are from those asked for.

    Args:
        part_counts: (ways, parts, labels) pixels.
        shares: The share of each part.
    """
    targets = np.array(shares)
    of_label = part_counts[0].sum(axis=0)
    part_counts = part_counts[:, :, of_label > 0]
    of_pixels = part_counts.sum(axis=2) / part_counts[0].sum() - targets
    of_labels = part_counts / of_label[of_label > 0] - targets[:, np.newaxis]
    distances: npt.NDArray[np.float64] = (of_pixels**2).sum(axis=1)
    distances += (of_labels**2).sum(axis=1).mean(axis=1)
    return distances
