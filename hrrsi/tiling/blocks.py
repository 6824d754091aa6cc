"""Scenes split into spatial blocks, with a guard band between those of different parts.

Near things are alike, so patches dealt out at random would score themselves on their neighbours
(Roberts et al. 2017, "Cross-validation strategies for data with temporal, spatial, hierarchical, or
phylogenetic structure"). Blocks are whole patches with a guard band around each. Neighbours in a
row that are of one part are cut as one, so that no guard band is lost between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import OptionError
from hrrsi.interruption import stop_if_requested
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.merged_classes import MergedClasses
from hrrsi.labels.scheme import Scheme
from hrrsi.labels.splits import Part, SceneSplit, block_name
from hrrsi.quantities import counted, names_text
from hrrsi.scenes.raster_opening import bounded_block_cache
from hrrsi.scenes.windows import Window
from hrrsi.tiling.block_dealing import PARTS, Counts, dealt_parts
from hrrsi.tiling.options import SMALLEST_PATCH, TileOptions
from hrrsi.tiling.scene_look import Piece, SceneLook
from hrrsi.tiling.scene_rows import on_patch_grid, open_tiled, patch_area

_USUAL_BLOCKS = 64
_BLOCKS_FOR_CHOICE = 3  # so many times as many as the least share needs
_STRIP = 1 << 22  # pixels of labels that are counted at a time
_MOST_COUNTED = 1 << 29  # pixels; of larger scenes only some rows are
_ALIKE = 1e-6  # of a pixel's size
_STEP = 32  # pixels by which a size that would do is looked for


@dataclass(frozen=True)
class Block:
    """A block of a scene, or several in a row that are of one part.

    Attributes:
        name: Its name: the scene's, with its row and column among the blocks.
        scene: The scene's name.
        part: train, val or test; None where it holds no labelled pixel, and is left out.
        blocks: How many blocks it is.
        window: What patches are cut from, without the guard band.
        class_pixels: Labelled pixels of each class, then of each partial label, in the window;
            about, where scenes are so large that only some rows were counted.
    """

    name: str
    scene: str
    part: Part | None
    blocks: int
    window: Window
    class_pixels: tuple[int, ...]


@dataclass(frozen=True)
class BlockSplit:
    """Scenes split into blocks.

    Attributes:
        blocks: The blocks, in the order of scenes, rows and columns.
        shares: The share of each part that was asked for, which make 1.
        labels: Names of the classes, then of the partial labels.
        side: Rows and columns of a block, but for those at the rim, and scenes that hold no more.
        guard: Pixels at least between patches of different parts.
        resolution: Ground sampling distance in metres per pixel, or None where unknown.
        lonely: Labels that stand in fewer blocks than there are parts, with their number of blocks.
    """

    blocks: tuple[Block, ...]
    shares: tuple[float, ...]
    labels: tuple[str, ...]
    side: int
    guard: int
    resolution: float | None
    lonely: dict[str, int]

    @property
    def name(self) -> str:
        """The split's name, e.g. ``blocks 70,15,15``."""
        return "blocks " + ",".join(f"{100 * share:.4g}" for share in self.shares)

    @property
    def split(self) -> SceneSplit:
        """The blocks of each part, as scenes of a split."""
        return SceneSplit(self.name, *(tuple(b.name for b in self.of(part)) for part in PARTS))

    def of(self, part: Part | None) -> list[Block]:
        """Return the blocks of a part; None: those that are left out."""
        return [block for block in self.blocks if block.part == part]

    def pieces(self, scene: str) -> list[Piece]:
        """Return the blocks of a scene that are in a part, as pieces of it."""
        return [
            Piece(block.name, block.part, block.window)
            for block in self.blocks
            if block.scene == scene and block.part is not None
        ]

    def class_pixels(self, part: Part) -> Counts:
        """Return the labelled pixels of each label in a part, (labels,)."""
        counts = [block.class_pixels for block in self.of(part)]
        pixels: Counts = np.array(counts, dtype=np.int64).reshape(-1, len(self.labels))
        return np.asarray(pixels.sum(axis=0), dtype=np.int64)

    @property
    def notes(self) -> list[str]:
        """What a person should know of it: lines that start with what they are."""
        dealt = {part: sum(block.blocks for block in self.of(part)) for part in (*PARTS, None)}
        parts = ", ".join(f"{dealt[part]} {part}" for part in PARTS if dealt[part])
        rest = f"; {dealt[None]} more hold no labelled pixel" if dealt[None] else ""
        notes = [
            f"note: {counted(sum(dealt.values()) - dealt[None], 'block')} of {self.side} x "
            f"{self.side} px{self._metres(self.side, self.side)}: {parts}{rest}; guard band "
            f"{self.guard} px{self._metres(self.guard)}",
            self._share_note(),
        ]
        if self.lonely:
            names = [f"{name} ({counted(count, 'block')})" for name, count in self.lonely.items()]
            notes.append(
                "warning: too few blocks hold them for every part to have some: "
                f"{names_text(names)}"
            )
        return notes

    def _metres(self, *pixels: int) -> str:
        if self.resolution is None:
            return ""
        return f" ({' x '.join(f'{count * self.resolution:.4g}' for count in pixels)} m)"

    def _share_note(self) -> str:
        counts = np.array([self.class_pixels(part) for part in PARTS])
        whole = counts.sum()
        parts = [number for number, share in enumerate(self.shares) if share]

        def listed(values: Counts) -> str:
            return ", ".join(f"{PARTS[p]} {values[p] / max(values.sum(), 1):.1%}" for p in parts)

        note = f"note: of the labelled pixels {listed(counts.sum(axis=1))}"
        shares = counts / np.maximum(counts.sum(axis=0), 1)
        deviation = np.abs(shares - np.array(self.shares)[:, None]).max(axis=0)
        deviation[counts.sum(axis=0) == 0] = 0
        if len(self.labels) > 1 and whole:
            furthest = int(deviation.argmax())
            note += f"; the class furthest from that is {self.labels[furthest]} with "
            note += listed(counts[:, furthest])
        return note


class _Place(NamedTuple):
    """Where a scene lies on the grid of pixels that it shares with others.

    Attributes:
        look: The scene.
        grid: Number of the grid.
        row: Its first row there.
        column: Its first column.
    """

    look: SceneLook
    grid: int
    row: int
    column: int


class _Layout(NamedTuple):
    """Where the blocks of a grid lie along its axes: first and last place but one of each."""

    rows: list[tuple[int, int]]
    columns: list[tuple[int, int]]


class _BlockCounts(NamedTuple):
    """Labels in the blocks of all grids.

    Attributes:
        layouts: Where the blocks of each grid lie.
        within: (labels,) pixels of each scene's part in a block, by the scene's name, the grid, and
            the block's row and column.
        after: The same of the guard band on the right of a block.
    """

    layouts: list[_Layout]
    within: dict[tuple[str, int, int, int], Counts]
    after: dict[tuple[str, int, int, int], Counts]

    @property
    def labelled(self) -> dict[tuple[int, int, int], Counts]:
        """The pixels in each block that has any: by its grid, row and column, sorted."""
        pixels: dict[tuple[int, int, int], Counts] = {}
        for (_, *key), counts in sorted(self.within.items(), key=lambda item: item[0][1:]):
            place = (key[0], key[1], key[2])
            pixels[place] = pixels.get(place, 0) + counts
        return {place: counts for place, counts in pixels.items() if counts.any()}


def block_split(
    looks: Sequence[SceneLook], scheme: Scheme, merged: MergedClasses, options: TileOptions
) -> BlockSplit:
    """Split scenes into blocks, by the labels on them.

    Scenes with the same CRS and pixels share one grid of blocks, so that blocks of different parts
    neither overlap nor touch where scenes do. The result is the same for the same arguments.

    Args:
        looks: The scenes.
        scheme: Says what labels mean.
        merged: The classes of the patches.
        options: `split_blocks`, and how scenes are read and cut.

    Raises:
        InputError: A scene or label can't be read.
        OptionError: There are too few blocks with labels.
    """
    assert options.split_blocks is not None
    shares = tuple(share / sum(options.split_blocks) for share in options.split_blocks)
    least = math.ceil(1 / min(share for share in shares if share) - 1e-9)
    count = _Counting(_places(looks), scheme, merged, options)
    whole = _whole_patches(looks, options, least)
    block_counts = count.blocks(whole)
    while len(block_counts.labelled) < least and whole > 1 and options.block_size is None:
        whole //= 2
        block_counts = count.blocks(whole)
    labelled = block_counts.labelled
    if len(labelled) < least:
        raise _shortage_error(len(labelled), whole, least, shares, count)
    counts = np.array(list(labelled.values()))
    parts = dict(zip(labelled, dealt_parts(counts, shares, options.seed), strict=True))
    blocks = tuple(_blocks(block_counts, count.places, parts))
    names = [*merged.names, *(label.name for label in merged.partial)]
    holding = (counts > 0).sum(axis=0).tolist()
    part_count = sum(share > 0 for share in shares)
    return BlockSplit(
        blocks,
        shares,
        tuple(names),
        whole * options.size,
        options.effective_guard,
        looks[0].resolution or scheme.resolution,
        {
            name: number
            for name, number in zip(names, holding, strict=True)
            if 0 < number < part_count
        },
    )


def _whole_patches(looks: Sequence[SceneLook], options: TileOptions, least: int) -> int:
    """Return how many whole patches a block has along a side."""
    if options.block_size is not None:
        return options.block_size // options.size
    area = sum(look.shape[0] * look.shape[1] for look in looks)
    side = math.sqrt(area / max(_USUAL_BLOCKS, _BLOCKS_FOR_CHOICE * least))
    return max(1, round((side - options.effective_guard) / options.size))


def _shortage_error(
    blocks: int, whole: int, least: int, shares: Sequence[float], count: _Counting
) -> OptionError:
    """Return the error of too few blocks, with the largest ones that would do."""
    options = count.options
    fix = "label more of it, or ask for fewer parts, such as `split_blocks=80,20,0`"
    fewer = (n for n in range(whole - 1, 0, -1) if len(count.blocks(n).labelled) >= least)
    step = max(_STEP, options.size // 16 // _STEP * _STEP)
    if (fitting := next(fewer, None)) is not None:
        fix = f"`block_size={fitting * options.size}` would do"
    else:
        for size in range(options.size - step, SMALLEST_PATCH - 1, -step):
            smaller = replace(options, size=size, stride=None, block_size=None)
            if len(replace(count, options=smaller).blocks(1).labelled) >= least:
                fix = f"patches of `size={size}` would do"
                break
    return OptionError(
        f"labels lie on {counted(blocks, 'block')} of {whole * options.size} px beside guard bands "
        f"of {options.effective_guard} px, too few for a share of "
        f"{min(share for share in shares if share):.0%} ({least} or more)",
        parameter="split_blocks",
        fix=fix,
    )


def _places(looks: Sequence[SceneLook]) -> list[_Place]:
    """Return where scenes lie, on a common grid where they have the same CRS and pixels."""
    grids: list[tuple[str | None, npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
    places = []
    for look in looks:
        outline = look.ground.outline
        if outline is None:
            grids.append((None, np.zeros(2), np.full((2, 2), np.nan)))
            places.append(_Place(look, len(grids) - 1, 0, 0))
            continue
        start, right, _, down = (np.array(corner) for corner in outline)
        pixel = np.stack([(down - start) / look.shape[0], (right - start) / look.shape[1]])
        for number, (crs, origin, other) in enumerate(grids):
            is_alike = np.abs(pixel - other).max() <= _ALIKE * np.abs(other).max()
            if crs == look.ground.crs and is_alike:
                row, column = np.rint(np.linalg.solve(other.T, start - origin)).astype(int)
                places.append(_Place(look, number, int(row), int(column)))
                break
        else:
            grids.append((look.ground.crs, start, pixel))
            places.append(_Place(look, len(grids) - 1, 0, 0))
    return places


@dataclass(frozen=True)
class _Counting:
    """Counts labels in blocks.

    Attributes:
        places: The scenes.
        scheme: Says what labels mean.
        merged: The classes of the patches.
        options: How scenes are read.
    """

    places: Sequence[_Place]
    scheme: Scheme
    merged: MergedClasses
    options: TileOptions

    @bounded_block_cache()
    def blocks(self, whole: int) -> _BlockCounts:
        """Return the blocks of so many whole patches along a side, and what they hold."""
        layouts = []
        for grid in range(max(place.grid for place in self.places) + 1):
            members = [place for place in self.places if place.grid == grid]
            # places of several scenes on a grid are rounded
            guard = self.options.effective_guard + (len(members) > 1)
            layouts.append(
                _Layout(
                    _axis_blocks(
                        [(p.row, p.look.shape[0]) for p in members], whole, self.options.size, guard
                    ),
                    _axis_blocks(
                        [(p.column, p.look.shape[1]) for p in members],
                        whole,
                        self.options.size,
                        guard,
                    ),
                )
            )
        block_counts = _BlockCounts(layouts, {}, {})
        for place in self.places:
            self._count(place, layouts[place.grid], block_counts)
        return block_counts

    def _count(self, place: _Place, layout: _Layout, block_counts: _BlockCounts) -> None:
        """Add what lies in the blocks that a scene has part in, and in the bands between them."""
        look, options = place.look, self.options
        height, width = look.shape
        labels = len(self.merged.label_colours)
        columns = _on_scene(layout.columns, place.column, width)
        segment = np.zeros(width, dtype=np.int64)  # 0: in no block, nor between two
        for number, (_, start, stop) in enumerate(columns):
            segment[start:stop] = 2 * number + 1
            if number + 1 < len(columns):
                segment[stop : columns[number + 1][1]] = 2 * number + 2
        with ExitStack() as stack:
            own = open_tiled(look.image, look.bands, options, look.height_model)
            scene = on_patch_grid(stack.enter_context(own), options, self.scheme)
            files, unknown = look.labels["train"], options.unknown
            opened = stack.enter_context(
                open_labels(files, scene, self.scheme, name=look.name, unknown=unknown)
            )
            area = patch_area(options.aoi, scene)
            for row, start, stop in _on_scene(layout.rows, place.row, height):
                counts: Counts = np.zeros((2 * len(columns) + 1, 256), dtype=np.int64)
                read = 0
                for window in _strips(start, stop, height, width):
                    stop_if_requested()
                    indices = self.merged.new_index[opened.read(window)]
                    if scene.declares_nodata:
                        indices[~scene.read_valid(window, scene.read(window))] = IGNORE_INDEX
                    if area is not None:
                        indices[~area.inside(window)] = IGNORE_INDEX
                    flat = (segment * 256 + indices).ravel()
                    counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
                    read += window.height
                counts = counts[:, :labels] * (stop - start) // read
                for number, (column, *_) in enumerate(columns):
                    key = (look.name, place.grid, row, column)
                    block_counts.within[key] = counts[2 * number + 1]
                    if number + 1 < len(columns):
                        block_counts.after[key] = counts[2 * number + 2]


def _axis_blocks(
    extents: Sequence[tuple[int, int]], whole: int, size: int, guard: int
) -> list[tuple[int, int]]:
    """Return where blocks lie along an axis: whole patches with guard bands between them.

    What is left over goes to the first blocks by whole patches, and to the last one.

    Args:
        extents: Where scenes begin along it, and how long they are.
        whole: Patches of a block at least, where there is room for them.
        size: Pixels of a patch.
        guard: Pixels between two blocks.
    """
    start = min(first for first, _ in extents)
    length = max(first + count for first, count in extents) - start
    blocks = max(1, (length + guard) // (whole * size + guard))
    patches = max(blocks, (length - (blocks - 1) * guard) // size)
    spans = []
    at = start
    for number in range(blocks):
        pixels = size * (patches // blocks + (number < patches % blocks))
        stop = at + pixels if number + 1 < blocks else start + length
        spans.append((at, stop))
        at = stop + guard
    return spans


def _on_scene(
    blocks: Sequence[tuple[int, int]], first: int, length: int
) -> list[tuple[int, int, int]]:
    """Return the blocks that a scene has part in along an axis, counted from its own beginning.

    Returns:
        Number, first place and place after the last of each; slivers are left out.
    """
    spans = []
    for number, (start, stop) in enumerate(blocks):
        start, stop = max(start - first, 0), min(stop - first, length)
        if stop - start >= min(SMALLEST_PATCH, length):
            spans.append((number, start, stop))
    return spans


def _strips(start: int, stop: int, height: int, width: int) -> Iterator[Window]:
    """Yield the rows of a block's scene some at a time, of very large scenes only some of them."""
    every = max(1, height * width // _MOST_COUNTED)
    step = max(1, _STRIP // width // every)
    for first in range(start, stop, step * every):
        yield Window(first, 0, min(step, stop - first), width)


def _blocks(
    block_counts: _BlockCounts, places: Sequence[_Place], parts: dict[tuple[int, int, int], Part]
) -> Iterator[Block]:
    """Yield the blocks of each scene, those of one part that follow each other in a row as one."""
    digits = len(str(max(max(row, column) for _, _, row, column in block_counts.within)))
    for place in places:
        look, layout = place.look, block_counts.layouts[place.grid]
        columns = _on_scene(layout.columns, place.column, look.shape[1])
        for row, top, stop in _on_scene(layout.rows, place.row, look.shape[0]):
            run: Block | None = None
            for column, left, right in columns:
                key = (look.name, place.grid, row, column)
                pixels = block_counts.within[key]
                part = parts.get(key[1:]) if pixels.any() else None
                name = block_name(look.name, row, column, digits)
                window = Window(top, left, stop - top, right - left)
                if run is not None and part is not None and run.part == part:
                    between = block_counts.after[(*key[:3], column - 1)]
                    run = replace(
                        run,
                        blocks=run.blocks + 1,
                        window=run.window._replace(width=right - run.window.col),
                        class_pixels=tuple((pixels + between + run.class_pixels).tolist()),
                    )
                    continue
                if run is not None:
                    yield run
                run = Block(name, look.name, part, 1, window, tuple(pixels.tolist()))
            if run is not None:
                yield run
