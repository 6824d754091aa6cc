"""Which window and overlap: seconds, peak memory, seams and mIoU of `hrrsi predict` by both.

Rounds are interleaved, so that a machine that slows down slows everybody down. Seconds are those of
the whole process, on a real image mirrored to the size. Seams are those of the maps of all SCENES
together (`seam_statistic.py` says how); the mIoU is that of Dubai's selection scenes.

    python benchmarks/window_sizes.py SCENES --texture examples/dubai_tile1.tif --truth DUBAI
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from measured_process import Measured, measured
from predict_speed import read_texture, write_scene
from seam_statistic import SeamStatistic, map_label_changes, seam_statistic

from hrrsi.networks.weights_file import packaged_weights
from hrrsi.quantities import TextTable
from hrrsi.scenes.windows import window_grid


class Size(NamedTuple):
    """Rows and columns of a window, and the pixels that neighbours share."""

    window: int
    overlap: int

    @property
    def flags(self) -> list[str]:
        """What tells a command."""
        return ["--window", str(self.window), "--overlap", str(self.overlap)]

    def computed(self, height: int, width: int) -> float:
        """Return the pixels that the network computes, as a multiple of the scene's."""
        grid = window_grid(height, width, self.window, self.window - self.overlap)
        return sum(w.height * w.width for row in grid for w in row) / (height * width)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="*", help="real RGB rasters, for the seams")
    parser.add_argument("--texture", type=Path, required=True, help="a real RGB image")
    parser.add_argument("--truth", type=Path, help="folder with Dubai's tiles: also score (mIoU)")
    parser.add_argument("--weights", type=Path, default=packaged_weights())
    parser.add_argument(
        "--sizes",
        nargs="+",
        default=["512/96", "512/64", "768/96", "768/144", "1024/96", "1024/192"],
        metavar="WINDOW/OVERLAP",
    )
    parser.add_argument("--raster", default="6000x6000", metavar="WIDTHxHEIGHT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--options", default="", help="more for hrrsi predict, e.g. '--batch 2'")
    return parser.parse_args()


def mapped(scene: Path, out: Path, size: Size, options: argparse.Namespace) -> Measured:
    """Map a scene with ``hrrsi predict``."""
    command = [sys.executable, "-m", "hrrsi", "predict", str(scene), "--quiet", "--overwrite"]
    command += ["--weights", str(options.weights), "--out", str(out), *size.flags]
    return measured([*command, *options.options.split()])


def scene_seams(size: Size, folder: Path, options: argparse.Namespace) -> SeamStatistic | None:
    """Return the seams of the maps of all scenes together."""
    changes = []
    for number, scene in enumerate(options.scenes):
        mapped(scene, folder / f"{number}.tif", size, options)
        changes.append(map_label_changes(folder / f"{number}.tif"))
    return seam_statistic(*changes, window=size.window, overlap=size.overlap) if changes else None


def selection_score(size: Size, folder: Path, options: argparse.Namespace) -> str:
    """Return the mIoU of Dubai's selection scenes in percent, with its interval."""
    command = [sys.executable, "-m", "hrrsi", "eval", str(options.truth), "--scheme", "dubai"]
    command += ["--split", "standard:val", "--weights", str(options.weights), *size.flags]
    path = folder / f"{size.window}_{size.overlap}.json"
    subprocess.run(
        [*command, "--json", str(path), "--quiet"], check=True, stdout=subprocess.DEVNULL
    )
    scores = json.loads(path.read_text())
    low, high = scores["intervals"]["mIoU"]
    return f"{100 * scores['scores']['mIoU']:.2f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    options = arguments()
    sizes = [Size(*map(int, text.split("/"))) for text in options.sizes]
    width, height = map(int, options.raster.split("x"))
    table = TextTable(
        ["window", "overlap", "pixels computed", "seconds (median)", "all rounds", "times as fast",
         "peak MB", "seams, ratio", "9 of 10 shifts", "p", "mIoU"]
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = folder / "scene.tif"
        write_scene(scene, read_texture(options.texture), height, width)
        rounds: dict[Size, list[Measured]] = {size: [] for size in sizes}
        for _ in range(options.rounds):
            for size, runs in rounds.items():
                runs.append(mapped(scene, folder / "map.tif", size, options))
        first = rounds[sizes[0]]
        for size, runs in rounds.items():
            ratios = [a.seconds / b.seconds for a, b in zip(first, runs, strict=True)]
            seams = scene_seams(size, folder, options)
            low, high = seams.noise if seams else (0, 0)
            table.add_row(
                [
                    size.window,
                    size.overlap,
                    f"{size.computed(height, width):.2f}",
                    f"{statistics.median(run.seconds for run in runs):.2f}",
                    " ".join(f"{run.seconds:.2f}" for run in runs),
                    f"{statistics.median(ratios):.2f}",
                    f"{max(run.peak for run in runs):.0f}",
                    f"{seams.ratio:.2f}" if seams else "-",
                    f"{low:.2f} to {high:.2f}" if seams else "-",
                    f"{seams.p_value:.3f}" if seams else "-",
                    selection_score(size, folder, options) if options.truth else "-",
                ]
            )
    print(table)
    print("Medians of interleaved rounds; ratios are taken round by round.")


if __name__ == "__main__":
    main()
