"""Do the windows show in a map? The seam statistic, stability, and a picture, overlap by overlap.

Maps real scenes with `hrrsi predict` at several overlaps and prints, for each, how often labels
change across the borders of windows compared with other lines (`seam_statistic.py`
says how), and the share of labels that change when all windows move by half a stride, which is
how much of a map hangs on where its windows happen to lie. The picture shows the worst seam of
the map without overlap beside the default overlap.

    python benchmarks/window_seams.py examples/dubai_tile1.tif --picture seams.png
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import rasterio
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from rasterio.windows import Window
from seam_statistic import (
    LabelChanges,
    SeamStatistic,
    map_label_changes,
    seam_statistic,
    window_joints,
)

from hrrsi.classes import IGNORE_INDEX, class_palette
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.networks.weights_reading import read_meta
from hrrsi.quantities import TextTable
from hrrsi.scenes.pixel_reader import NO_DATA_COLOUR
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.windows import DEFAULT_WINDOW, default_overlap

WINDOW = 512
DEFAULT = default_overlap(DEFAULT_WINDOW)
CROP_HEIGHT, CROP_WIDTH = 320, 420
INK, FAINT, SEAM, CALM = "#212529", "#6c757d", "#d1495b", "#00798c"


class Mapped(NamedTuple):
    """A scene mapped at one overlap.

    Attributes:
        path: The class raster.
        changes: Its label changes across lines.
        statistic: Of its seams; None where it is one window.
    """

    path: Path
    changes: LabelChanges
    statistic: SeamStatistic | None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+", help="real RGB rasters")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 32, 64, 96, 128])
    parser.add_argument("--weights", type=Path, default=packaged_weights())
    parser.add_argument("--picture", type=Path, help="a PNG of the first scene; needs overlap 0")
    parser.add_argument("--seams-only", action="store_true", help="leave the stability out")
    parser.add_argument("--options", default="", help="more for hrrsi predict, e.g. '--nodata 0'")
    return parser.parse_args()


def map_scene(scene: Path, out: Path, overlap: int, options: argparse.Namespace) -> Path:
    """Map a scene with ``hrrsi predict``."""
    command = [sys.executable, "-m", "hrrsi", "predict", str(scene), "--quiet", "--overwrite"]
    command += ["--weights", str(options.weights), "--out", str(out)]
    command += ["--window", str(WINDOW), "--overlap", str(overlap), *options.options.split()]
    command += ["--resample", "off"]  # else windows don't lie on the scene's own pixels
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


# --- stability


def unstable_shares(
    scene: Path, folder: Path, options: argparse.Namespace
) -> dict[int, float | None]:
    """Return, by overlap, the share of labels that change when the windows move.

    None where the scene is too small to tell.

    Two crops of the scene, half a stride apart both ways, hold whole windows only, so that none
    has to move inward. All overlaps are compared over the same pixels.
    """
    with open_raster(scene) as dataset:
        height, width = dataset.height, dataset.width
    strides = {overlap: WINDOW - overlap for overlap in options.overlaps}
    sizes = {
        overlap: [_whole_windows(length - stride // 2, stride) for length in (height, width)]
        for overlap, stride in strides.items()
    }
    first = max(stride // 2 for stride in strides.values())
    last = [min(size[axis] for size in sizes.values()) for axis in (0, 1)]
    if min(last) <= first:
        return dict.fromkeys(options.overlaps)
    shares: dict[int, float | None] = {}
    for overlap, stride in strides.items():
        maps = []
        for offset in (0, stride // 2):
            crop = folder / "crop.tif"
            write_crop(scene, crop, Window(offset, offset, *reversed(sizes[overlap])))
            with open_raster(map_scene(crop, folder / "crop_map.tif", overlap, options)) as labels:
                start = first - offset
                here = Window(start, start, last[1] - first, last[0] - first)
                maps.append(labels.read(1, window=here))
        both = (maps[0] != IGNORE_INDEX) & (maps[1] != IGNORE_INDEX)
        shares[overlap] = float((maps[0] != maps[1])[both].mean()) if both.any() else None
    return shares


def _whole_windows(length: int, stride: int) -> int:
    """Return the most pixels of an axis that windows cover without moving inward."""
    return (length - WINDOW) // stride * stride + WINDOW if length >= WINDOW else 0


def write_crop(scene: Path, path: Path, window: Window) -> None:
    with open_raster(scene) as source:
        pixels = source.read((1, 2, 3), window=window)
        profile = {"crs": source.crs, "transform": source.window_transform(window)}
    _, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=3,
        dtype=pixels.dtype,
        **profile,
    ) as dataset:
        dataset.write(pixels)


# --- table


def table(
    title: str, statistics: dict[int, SeamStatistic | None], unstable: dict[int, float | None]
) -> str:
    result = TextTable(
        [
            "overlap",
            "joints",
            "on seams",
            "elsewhere",
            "ratio",
            "9 of 10 shifts",
            "p",
            "in overlaps / outside",
            "labels that move with the windows",
        ]
    )
    for overlap, statistic in statistics.items():
        share = unstable.get(overlap)
        moving = "-" if share is None else f"{share:.2%}"
        if statistic is None:
            result.add_row([overlap, 0, *["-"] * 6, moving])
            continue
        low, high = statistic.noise
        zone = "-" if statistic.overlap_ratio is None else f"{statistic.overlap_ratio:.2f}"
        result.add_row(
            [
                overlap,
                statistic.joints,
                f"{statistic.seam_share:.2%}",
                f"{statistic.elsewhere_share:.2%}",
                f"{statistic.ratio:.2f}",
                f"{low:.2f} to {high:.2f}",
                f"{statistic.p_value:.3f}",
                zone,
                moving,
            ]
        )
    return f"{title}\n{result}"


# --- picture


def draw(scene: Path, by_overlap: dict[int, Mapped], options: argparse.Namespace) -> None:
    """Write the picture: the worst seam at overlap 0, the same place at the default, profiles."""
    meta = read_meta(options.weights)
    shown = [0, DEFAULT]
    maps = [by_overlap[overlap] for overlap in shown]
    top, left, is_column, line = worst_seam(maps[0].path)
    window = Window(left, top, CROP_WIDTH, CROP_HEIGHT)
    palette = class_palette(meta.colours, NO_DATA_COLOUR)
    with open_raster(scene) as dataset:
        pictures = [np.moveaxis(dataset.read((1, 2, 3), window=window), 0, -1)]
        height, width = dataset.height, dataset.width
    for mapped in maps:
        with open_raster(mapped.path) as labels:
            pictures.append(palette[labels.read(1, window=window)])
    mpl.rcParams.update(
        {"font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.edgecolor": FAINT}
    )
    figure = plt.figure(figsize=(13, 7.8), dpi=150)
    grid = figure.add_gridspec(
        2, 3, height_ratios=(1.35, 1), hspace=0.28, wspace=0.1, left=0.06, right=0.98, top=0.86,
        bottom=0.08,
    )  # fmt: skip
    titles = ["Scene", "No overlap", f"Overlap {DEFAULT} px (default)"]
    for position, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
        axes = figure.add_subplot(grid[0, position])
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title, fontsize=12, fontweight="bold", loc="left", pad=13)
        overlap = shown[max(position - 1, 0)]
        _tick_window_lines(axes, (height, width), overlap, top, left)
    axes = figure.add_subplot(grid[1, :])
    _draw_profiles(axes, {overlap: by_overlap[overlap].statistic for overlap in shown})
    axis = "column" if is_column else "row"
    figure.text(0.06, 0.955, "Where windows meet", fontsize=17, fontweight="bold", va="center")
    subtitle = (
        f"{scene.name}, windows of {WINDOW} px, around the window border at {axis} {line}. "
        "Arrows mark where windows meet, or begin and end to overlap."
    )
    figure.text(0.06, 0.92, subtitle, color=FAINT, va="center")
    figure.legend(
        handles=[
            Patch(facecolor=np.divide(colour, 255), edgecolor=FAINT, linewidth=0.5, label=name)
            for name, colour in zip(meta.classes, meta.colours, strict=True)
        ],
        loc="upper right",
        bbox_to_anchor=(0.985, 0.985),
        ncols=len(meta.classes),
        frameon=False,
        handlelength=1.2,
        columnspacing=1.4,
    )
    figure.savefig(options.picture)
    plt.close(figure)


def worst_seam(path: Path) -> tuple[int, int, bool, int]:
    """Return the crop around the stretch of a seam where most labels change.

    Returns:
        The crop's first row and column, whether the seam lies between columns, and its line.
    """
    with open_raster(path) as dataset:
        labels = dataset.read(1)
    best = (-1.0, 0, 0, True, 0)
    for is_column in (True, False):
        turned = labels.T if is_column else labels  # lines lie between rows of this
        along = CROP_HEIGHT if is_column else CROP_WIDTH
        for joint in window_joints(len(turned), WINDOW, 0):
            changed = _changes(turned, joint.middle) - np.mean(
                [_changes(turned, joint.middle + offset) for offset in (-16, -8, 8, 16)], axis=0
            )
            stretches = np.convolve(changed, np.ones(along), "valid")
            place = int(stretches.argmax())
            if stretches[place] / along > best[0]:
                best = (
                    float(stretches[place] / along),
                    place,
                    joint.middle,
                    is_column,
                    joint.middle,
                )
    _, place, line, is_column, _ = best
    across = CROP_WIDTH if is_column else CROP_HEIGHT
    length = labels.shape[1] if is_column else labels.shape[0]
    start = int(np.clip(line - across // 2, 0, max(0, length - across)))
    return (place, start, True, line) if is_column else (start, place, False, line)


def _changes(labels: npt.NDArray[np.uint8], line: int) -> npt.NDArray[np.float64]:
    above, below = labels[line - 1], labels[line]
    changed = (above != below) & (above != IGNORE_INDEX) & (below != IGNORE_INDEX)
    return changed.astype(np.float64)


def _tick_window_lines(
    axes: Axes, size: tuple[int, int], overlap: int, top: int, left: int
) -> None:
    """Mark at the frame where windows meet: one arrow, or where an overlap begins and ends."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.8)
    outside = {"clip_on": False, "color": SEAM, "markersize": 8, "linestyle": "none"}
    for length, start, extent, is_column in (
        (size[1], left, CROP_WIDTH, True),
        (size[0], top, CROP_HEIGHT, False),
    ):
        for joint in window_joints(length, WINDOW, overlap):
            if is_column:
                frame = axes.get_xaxis_transform()
                for end, marker in ((1.025, "v"), (-0.025, "^")):
                    for line in {joint.begin, joint.end}:
                        if 0 <= line - start <= extent:
                            place = line - start - 0.5
                            axes.plot([place], [end], marker, transform=frame, **outside)
            else:
                frame = axes.get_yaxis_transform()
                for end, marker in ((1.02, "<"), (-0.02, ">")):
                    for line in {joint.begin, joint.end}:
                        if 0 <= line - start <= extent:
                            place = line - start - 0.5
                            axes.plot([end], [place], marker, transform=frame, **outside)
    axes.set(xlim=(-0.5, CROP_WIDTH - 0.5), ylim=(CROP_HEIGHT - 0.5, -0.5))


def _draw_profiles(axes: Axes, statistics: dict[int, SeamStatistic | None]) -> None:
    for (overlap, statistic), colour in zip(statistics.items(), (SEAM, CALM), strict=True):
        if statistic is None:
            continue
        offsets = np.arange(len(statistic.profile)) - len(statistic.profile) // 2
        name = f"overlap {overlap} px" if overlap else "no overlap"
        figures = (
            f"{statistic.ratio:.2f} times as many changes on seams, p = {statistic.p_value:.3f}"
        )
        axes.plot(
            offsets, statistic.profile, color=colour, linewidth=1.1, label=f"{name}: {figures}"
        )
        if overlap:
            axes.axvspan(
                -overlap / 2, overlap / 2, color=colour, alpha=0.08, linewidth=0,
                label=f"blended over {overlap} px",
            )  # fmt: skip
    axes.set_xlim(-WINDOW // 2 + 32, WINDOW // 2 - 32)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("distance from where windows meet, in pixels", color=INK)
    axes.set_title(
        "Neighbouring pixels with different labels, whole scene", fontsize=12, fontweight="bold",
        loc="left",
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dee2e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT)
    axes.legend(frameon=False, loc="upper right")


def main() -> None:
    options = arguments()
    if options.picture and not {0, DEFAULT} <= set(options.overlaps):
        raise SystemExit(f"the picture needs --overlaps 0 {DEFAULT}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maps: dict[int, list[LabelChanges]] = {overlap: [] for overlap in options.overlaps}
        for scene in options.scenes:
            unstable = {} if options.seams_only else unstable_shares(scene, folder, options)
            by_overlap = {}
            for overlap in options.overlaps:
                path = map_scene(scene, folder / f"{overlap}.tif", overlap, options)
                changes = map_label_changes(path)
                statistic = seam_statistic(changes, window=WINDOW, overlap=overlap)
                by_overlap[overlap] = Mapped(path, changes, statistic)
                maps[overlap].append(changes)
            statistics = {overlap: mapped.statistic for overlap, mapped in by_overlap.items()}
            print(table(str(scene), statistics, unstable), flush=True)
            if options.picture and scene == options.scenes[0]:
                draw(scene, by_overlap, options)
                print(f"picture: {options.picture}")
    if len(options.scenes) > 1:
        statistics = {
            overlap: seam_statistic(*changes, window=WINDOW, overlap=overlap)
            for overlap, changes in maps.items()
        }
        print(table(f"all {len(options.scenes)} scenes", statistics, {}))
    print(
        "Share of neighbouring pixels with different labels, across the lines where a window "
        "begins, hands over or ends, and across all others; ratio of the two; the ratios of "
        "nine of ten sets of lines shifted by up to half a window; p: rank of the seams among "
        "them. Last column: labels that change when all windows move by half a stride."
    )


if __name__ == "__main__":
    main()
