"""Which filling of pixels without data disturbs the labels of a window's other pixels least?

The networks pool over the whole window, so what fills a window moves labels far away from it.
Full windows of real scenes are mapped as they are, which is the reference. Then a part of each is
declared to hold no data, filled in several ways, and mapped again: the fewer labels of the rest
change, the better the filling. Two controls say how much is unavoidable: the window moved away
from the part without data, so that it is full of real pixels again, and, for the scene smaller
than a window, the network run at the scene's own size. Truth, where the scenes have it, says
whether changed labels are worse labels.

    python benchmarks/window_fill.py DUBAI_FOLDER --scheme dubai --exclude 'tile1_*'
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from window_fillings import Mask, Pixels, fillings

from hrrsi.classes import IGNORE_INDEX
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.labelled_scenes import SceneFiles, labelled_scenes
from hrrsi.labels.scheme import load_scheme
from hrrsi.networks.segmentation import UED
from hrrsi.networks.weights_reading import load_model
from hrrsi.quantities import TextTable
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.windows import Window

SIZE = 512
RINGS = (0, 16, 64, 128, 10**6)  # distances from the part without data, in pixels
SMALL_SCENE = 320
MOVED = "control: window moved inward"
OWN_SIZE = "control: at the scene's size"


# --- parts without data


@dataclass(frozen=True)
class Part:
    """A part of a window declared to hold no data.

    Attributes:
        name: What it stands for.
        valid: Where data remains.
        moves: Rows and columns by which the window moves to hold data only, or None.
    """

    name: str
    valid: Mask
    moves: tuple[int, int] | None


def parts(turn: int, flipped: bool) -> list[Part]:
    """Return the parts without data, turned by quarters so that no direction is favoured."""
    row, column = np.indices((SIZE, SIZE))
    rim, leg = SIZE // 10, 3 * SIZE // 4
    masks = [
        ("half", column >= SIZE // 2, (0, SIZE // 2)),
        ("corner triangle", row + column >= leg, (leg // 2, leg // 2)),
        ("10 % rim", column >= rim, (0, rim)),
        (f"scene of {SMALL_SCENE} px", (row < SMALL_SCENE) & (column < SMALL_SCENE), None),
    ]
    result = []
    for name, valid, moves in masks:
        if moves is not None:
            down, right = (moves[1], moves[0]) if flipped else moves
            valid = valid.T if flipped else valid
            valid = np.rot90(valid, turn)
            for _ in range(turn):  # a quarter anticlockwise takes right to up, and down to right
                down, right = -right, down
            moves = (down, right)
        result.append(Part(name, np.ascontiguousarray(valid), moves))
    return result


# --- windows of real scenes


@dataclass(frozen=True)
class SceneWindow:
    """A full window of a scene, in memory with its whole scene."""

    pixels: Pixels
    truth: npt.NDArray[np.uint8] | None
    row: int
    col: int

    def moved(self, by: tuple[int, int] = (0, 0)) -> Pixels | None:
        """Return the pixels of the window, moved; None where it leaves the scene."""
        row, col = self.row + by[0], self.col + by[1]
        _, height, width = self.pixels.shape
        if row < 0 or col < 0 or row + SIZE > height or col + SIZE > width:
            return None
        return self.pixels[:, row : row + SIZE, col : col + SIZE]

    def labels(self) -> npt.NDArray[np.uint8] | None:
        """Return the truth of the window, where there is one."""
        if self.truth is None:
            return None
        return self.truth[self.row : self.row + SIZE, self.col : self.col + SIZE]


def scene_windows(options: argparse.Namespace, bands: int) -> Iterator[SceneWindow]:
    """Yield windows evenly taken from all scenes, those without data left out."""
    scheme = load_scheme(options.scheme) if options.scheme else None
    files: list[SceneFiles] = []
    for path in options.scenes:
        if path.is_dir() and scheme is not None:
            files += labelled_scenes([path], scheme)
        elif path.is_dir():
            files += [SceneFiles(p.stem, str(p)) for p in sorted(path.glob("*.tif"))]
        else:
            files.append(SceneFiles(path.stem, str(path)))
    files = [f for f in files if not any(fnmatch(f.name, p) for p in options.exclude)]
    places: list[tuple[SceneFiles, int, int]] = []
    for file in files:
        with open_scene(file.image, expected_bands=bands) as scene:
            places += [
                (file, row, col)
                for row in range(0, scene.height - SIZE + 1, SIZE // 2)
                for col in range(0, scene.width - SIZE + 1, SIZE // 2)
            ]
    if not places:
        raise SystemExit(f"no scene has a window of {SIZE} px")
    every = np.unique(np.linspace(0, len(places) - 1, options.windows).round().astype(int))
    loaded: tuple[SceneFiles, Pixels, npt.NDArray[np.uint8] | None] | None = None
    for index in every:
        file, row, col = places[index]
        if loaded is None or loaded[0] is not file:
            loaded = (file, *_whole(file, options, bands))
        window = SceneWindow(loaded[1], loaded[2], row, col)
        if np.isfinite(window.moved()).all() and (window.moved() == 0).all(axis=0).mean() < 0.01:
            yield window


def _whole(
    file: SceneFiles, options: argparse.Namespace, bands: int
) -> tuple[Pixels, npt.NDArray[np.uint8] | None]:
    with ExitStack() as stack:
        scene = stack.enter_context(open_scene(file.image, expected_bands=bands))
        everything = Window(0, 0, scene.height, scene.width)
        pixels = scene.read(everything).astype(np.float32)
        if file.label is None or not options.scheme:
            return pixels, None
        scheme = load_scheme(options.scheme)
        labels = stack.enter_context(open_labels(file.label, scene, scheme, name=file.name))
        return pixels, labels.read(everything)


# --- measuring


class Tally:
    """Changed and compared pixels by distance, and right ones, for one filling of one part."""

    def __init__(self) -> None:
        self.changed = np.zeros(len(RINGS) - 1, dtype=np.int64)
        self.compared = np.zeros(len(RINGS) - 1, dtype=np.int64)
        self.shares: list[float] = []  # of each window, for the spread
        self.right = self.right_before = self.with_truth = 0
        self.seconds: list[float] = []

    def add(
        self,
        before: npt.NDArray[np.uint8],
        after: npt.NDArray[np.uint8],
        ring: npt.NDArray[np.intp],
        truth: npt.NDArray[np.uint8] | None,
    ) -> None:
        """Count one window: labels before and after and rings of the same valid pixels."""
        changed = before != after
        self.changed += np.bincount(ring[changed], minlength=len(RINGS) - 1)
        self.compared += np.bincount(ring, minlength=len(RINGS) - 1)
        self.shares.append(float(changed.mean()))
        if truth is not None:
            labelled = truth != IGNORE_INDEX
            self.with_truth += int(labelled.sum())
            self.right += int((after == truth)[labelled].sum())
            self.right_before += int((before == truth)[labelled].sum())


def measured(
    windows: Iterator[SceneWindow], network: UED
) -> tuple[dict[str, dict[str, Tally]], int]:
    meta = network.meta
    mean, deviation = (
        np.asarray(values, dtype=np.float32) * np.float32(meta.scale)
        for values in (meta.mean, meta.std)
    )
    ways = fillings(mean)
    tallies: dict[str, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))

    def mapped(pixels: Pixels) -> npt.NDArray[np.uint8]:
        with torch.inference_mode():
            normalised = (pixels - mean[:, None, None]) / deviation[:, None, None]
            batch = torch.from_numpy(normalised[None])
            batch = batch.contiguous(memory_format=torch.channels_last)
            return network.segment(batch)[0].argmax(dim=0).to(torch.uint8).numpy()

    count = 0
    for count, window in enumerate(windows, start=1):
        full = window.moved()
        assert full is not None
        reference, truth = mapped(full), window.labels()
        for part in _best_turned(window, count):
            valid = part.valid
            distance = ndimage.distance_transform_edt(valid)
            ring = np.digitize(distance, RINGS[1:], right=True)

            def compare(
                name: str,
                labels: npt.NDArray[np.uint8],
                where: Mask,
                part: Part = part,
                ring: npt.NDArray[np.intp] = ring,
                before: npt.NDArray[np.uint8] = reference,
                truth: npt.NDArray[np.uint8] | None = truth,
            ) -> Tally:
                tally = tallies[part.name][name]
                tally.add(
                    before[where],
                    labels[where],
                    ring[where],
                    None if truth is None else truth[where],
                )
                return tally

            for name, fill in ways.items():
                hidden = np.where(valid, full, np.float32(0))  # nothing leaks from the rest
                start = time.perf_counter()
                filled = fill(hidden, valid)
                seconds = time.perf_counter() - start
                compare(name, mapped(filled), valid).seconds.append(seconds)
            if part.moves is None:
                small = mapped(full[:, :SMALL_SCENE, :SMALL_SCENE])
                compare(OWN_SIZE, np.pad(small, ((0, SIZE - SMALL_SCENE),) * 2), valid)
            elif (elsewhere := window.moved(part.moves)) is not None:
                down, right = part.moves
                labels, shared = np.zeros_like(reference), np.zeros_like(valid)
                here = _overlap(down, right)
                labels[here] = mapped(elsewhere)[_overlap(-down, -right)]
                shared[here] = True
                compare(MOVED, labels, shared & valid)
    return tallies, count


def _overlap(down: int, right: int) -> tuple[slice, slice]:
    """Return the part of a window that the same window, moved, covers too."""
    rows, columns = (slice(max(d, 0), SIZE + min(d, 0)) for d in (down, right))
    return rows, columns


def _best_turned(window: SceneWindow, count: int) -> list[Part]:
    """Return the parts, turned so that the moved window stays in the scene where it can."""
    options = [parts((count + turn) % 4, bool(count % 2)) for turn in range(4)]
    chosen = []
    for turned in zip(*options, strict=True):
        fitting = [p for p in turned if p.moves is None or window.moved(p.moves) is not None]
        chosen.append((fitting or list(turned))[0])
    return chosen


def table(tallies: dict[str, dict[str, Tally]]) -> TextTable:
    rings = [f"{a}-{b} px" if b < 10**6 else f"> {a} px" for a, b in pairwise(RINGS)]
    result = TextTable(
        ["no data", "filled by", "windows", "changed", "±", *rings, "OA", "ms"], left=(0, 1)
    )
    for part, by_way in tallies.items():
        for way, tally in sorted(by_way.items(), key=lambda item: _share(item[1])):
            spread = np.std(tally.shares, ddof=1) / len(tally.shares) ** 0.5
            with np.errstate(invalid="ignore"):
                shares = tally.changed / tally.compared
            gain = (tally.right - tally.right_before) / max(tally.with_truth, 1)
            result.add_row(
                [
                    part,
                    way,
                    len(tally.shares),
                    f"{_share(tally):.2%}",
                    f"{spread:.2%}",
                    *("-" if np.isnan(s) else f"{s:.2%}" for s in shares),
                    f"{100 * gain:+.2f}" if tally.with_truth else "-",
                    f"{1000 * np.median(tally.seconds):.1f}" if tally.seconds else "-",
                ]
            )
        result.add_divider()
    return result


def _share(tally: Tally) -> float:
    return float(tally.changed.sum() / tally.compared.sum())


def summary(tallies: dict[str, dict[str, Tally]]) -> TextTable:
    """Rank the fillings by the share of changed labels, averaged over the parts."""
    names = [n for n in next(iter(tallies.values())) if not n.startswith("control")]
    means = {n: float(np.mean([_share(t[n]) for t in tallies.values()])) for n in names}
    best = min(means, key=lambda n: means[n])
    result = TextTable(["filled by", "changed, mean of parts", "paired with the best"])
    for name in sorted(names, key=lambda n: means[n]):
        # paired by window: its parts are no independent samples
        gaps = np.mean(
            [np.subtract(t[name].shares, t[best].shares) for t in tallies.values()], axis=0
        )
        error = np.std(gaps, ddof=1) / len(gaps) ** 0.5
        result.add_row(
            [
                name,
                f"{means[name]:.2%}",
                "-" if name == best else f"{gaps.mean():+.2%} ± {error:.2%}",
            ]
        )
    return result


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+", help="rasters, or folders of scenes")
    parser.add_argument("--scheme", help="names images and labels in folders, e.g. dubai")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="PATTERN", help="scene names")
    parser.add_argument("--weights", type=Path, help="default: those inside the package")
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--json", type=Path, help="also write every figure here")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    network = load_model(options.weights).to(memory_format=torch.channels_last)
    windows = scene_windows(options, network.meta.band_count)
    tallies, count = measured(windows, network)
    print(table(tallies))
    print(summary(tallies))
    print(
        f"{count} windows of {SIZE} px; changed: valid pixels whose label differs from the full "
        "window's, ± standard error over windows; columns in px: by distance from the part "
        "without data; OA: points of agreement with the truth gained on the valid pixels."
    )
    if options.json:
        figures = {
            part: {
                way: {
                    "changed": t.changed.tolist(),
                    "compared": t.compared.tolist(),
                    "windows": t.shares,
                    "seconds": t.seconds,
                    "right": [t.right_before, t.right, t.with_truth],
                }
                for way, t in by_way.items()
            }
            for part, by_way in tallies.items()
        }
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
