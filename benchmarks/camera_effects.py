r"""What each change of the camera is worth in training, on cameras that no training has seen.

Twelve runs of `hrrsi train` differ in nothing but `--camera` and the seed: each change is made in
six of them, and in three of those six every other change is made, too (Plackett and Burman 1946,
"The design of optimum multifactorial experiments"). So the mean of the six runs with a change less
that of the six without is what the change is worth, and all twelve runs tell it of every change.
Two columns of the plan change nothing: what they seem to be worth is chance. The margin is Lenth's
(1989, "Quick and easy analysis of unreplicated factorials"), for 95 % confidence of one effect.

    python benchmarks/camera_effects.py DATASET ... --mix 0.4,0.2,0.1,0.3 --out RUNS \
        --encoder-weights ImageNet.safetensors --scenes drones=FOLDER --scenes 'aerial=FOLDER:*5' \
        --changed aerial=FOLDER

Each FOLDER holds images, labels and `scheme.yaml`. Scenes of `--changed` are changed as patches
are, one change at a time: what a change is worth there is what it protects from, with a margin of
its own.
Finished runs and scores are only read, so a stopped series goes on where it was, and several
processes can share it (`--runs 1,3,5`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from camera_changes import UNCHANGED, write_changed
from scipy.stats import t
from training_runs import run_rows

import hrrsi
from hrrsi.labels.labelled_scenes import labelled_scenes
from hrrsi.labels.scheme import load_scheme
from hrrsi.quantities import TextTable
from hrrsi.training.options import CAMERA_CHANGES

MODEL = "ued-tf_efficientnet_lite0"
# what two columns of the plan are called: they change nothing
CHANCE = ("(nothing)", "(nothing again)")
OWN = "own validation"
PROTECTIONS = ("changed so", "less what it is worth unchanged")


def screening_plan() -> npt.NDArray[np.bool_]:
    """Return which of eleven factors each of twelve runs has: (12, 11), each in six runs."""
    first = np.array([1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0], bool)
    return np.stack([*(np.roll(first, shift) for shift in range(11)), np.zeros(11, bool)])


def effects(
    plan: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], float]:
    """Return what each factor is worth, and the margin within which that is chance.

    Args:
        plan: (runs, factors), each factor in half of the runs.
        scores: (runs,).
    """
    worth = np.array([scores[has].mean() - scores[~has].mean() for has in plan.T])
    sizes = np.abs(worth)
    usual = 1.5 * np.median(sizes)
    error = 1.5 * np.median(sizes[sizes < 2.5 * usual])
    return worth, float(t.ppf(0.975, len(worth) / 3) * error)


def place_score(weights: Path, place: str, file: Path) -> float:
    """Return the mIoU of a folder of scenes, or of those of a pattern; measured once, and kept."""
    if not file.is_file():
        folder, _, pattern = place.partition(":")
        options = hrrsi.EvaluationOptions(
            scheme=str(Path(folder) / "scheme.yaml"), scenes=(pattern or "*",)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unlike the training data: that is the point
            result = hrrsi.evaluate(folder, weights=weights, options=options)
        file.write_text(json.dumps(result.scores.mean_iou))
    return float(json.loads(file.read_text()))


def protection_table(
    places: Mapping[str, Path], runs: Sequence[Path], plan: npt.NDArray[np.bool_]
) -> TextTable:
    """Return what each change is worth on scenes that were changed so, with its margin of chance.

    What it is worth on the same scenes unchanged is taken off run by run in a second figure: a run
    that is better everywhere protects from nothing.

    Args:
        places: Folders of scenes, by name.
        runs: The folders of the runs of the plan.
        plan: (runs, factors).
    """
    table = TextTable(
        ["scenes changed by", *(f"{place}, {figure}" for place in places for figure in PROTECTIONS)]
    )
    rows: dict[str, list[str]] = {change: [] for change in CAMERA_CHANGES}
    for name, folder in places.items():
        unchanged = changed_scores(name, folder, UNCHANGED, runs)
        for column, change in enumerate(CAMERA_CHANGES):
            scores = changed_scores(name, folder, change, runs)
            for values in (scores, scores - unchanged):
                worth, margin = effects(plan, values)
                rows[change].append(f"{worth[column]:+.1f} ({margin:.1f})")
    for change, row in rows.items():
        table.add_row([change, *row])
    return table


def changed_scores(
    name: str, folder: Path, change: str, runs: Sequence[Path]
) -> npt.NDArray[np.float64]:
    """Return the mIoU of each run on scenes after a change, percent: (runs,); measured once."""
    files = [run / f"{name}-{change}.json" for run in runs]
    if not all(file.is_file() for file in files):
        scenes = labelled_scenes([folder], load_scheme(folder / "scheme.yaml"))
        with tempfile.TemporaryDirectory() as temporary:
            changed = Path(temporary) / "scenes"
            write_changed(scenes, change, folder, changed)
            for run, file in zip(runs, files, strict=True):
                place_score(run / MODEL / "best.safetensors", str(changed), file)
    return np.array([100 * float(json.loads(file.read_text())) for file in files])


def main() -> None:
    """Train and score what is missing, and print what each change is worth."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--mix", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder-weights", required=True)
    parser.add_argument("--scenes", action="append", required=True, metavar="NAME=FOLDER[:PATTERN]")
    parser.add_argument("--changed", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--runs", help="only these of 0 to 11, e.g. 0,2,4")
    parser.add_argument("--table", action="store_true", help="show what is done, train nothing")
    arguments = parser.parse_args()
    places = dict(pair.split("=", 1) for pair in arguments.scenes)
    plan = screening_plan()
    names = [*CAMERA_CHANGES, *CHANCE]
    numbers = [int(n) for n in arguments.runs.split(",")] if arguments.runs else range(len(plan))
    scores: dict[str, list[float]] = {place: [] for place in (*places, OWN)}
    table = TextTable(["run", "changes of the camera", *scores], left=(1,))
    for number in numbers:
        changes = [name for name, has in zip(names, plan[number], strict=True) if has]
        camera = ",".join(name for name in changes if name not in CHANCE) or "none"
        options = ["--batch", "16", "--lr", "0.001", "--weight-decay", "0.02", "--crop", "128"]
        options += ["--average", "0.995", "--class-weights", "none", "--resolutions", "0.25-0.8"]
        options += ["--precision", "bf16", "--mix", arguments.mix, "--camera", camera]
        options += ["--seed", str(number)]
        folder = arguments.out / str(number)
        rows = run_rows(
            arguments.datasets,
            folder,
            MODEL,
            arguments.epochs,
            options,
            encoder_weights=arguments.encoder_weights,
            only_finished=arguments.table,
        )
        if not rows:
            continue
        weights = folder / MODEL / "best.safetensors"
        for name, place in places.items():
            scores[name].append(place_score(weights, place, folder / f"{name}.json"))
        scores[OWN].append(max(float(row["val_mIoU"]) for row in rows))
        table.add_row([number, camera, *(f"{100 * each[-1]:.1f}" for each in scores.values())])
    print(table)
    if any(len(each) < len(plan) for each in scores.values()):
        return
    worth = {name: effects(plan, 100 * np.array(each)) for name, each in scores.items()}
    table = TextTable(["change", *(f"{name}, points of mIoU" for name in worth)])
    for column, name in enumerate(names):
        table.add_row([name, *(f"{each[0][column]:+.1f}" for each in worth.values())])
    table.add_row(["margin of chance", *(f"{each[1]:.1f}" for each in worth.values())])
    means = (f"{100 * statistics.mean(each):.1f}" for each in scores.values())
    table.add_row(["mean of all runs", *means])
    print(table)
    if arguments.changed:
        changed = (pair.split("=", 1) for pair in arguments.changed)
        runs = [arguments.out / str(number) for number in numbers]
        print(protection_table({name: Path(folder) for name, folder in changed}, runs, plan))


if __name__ == "__main__":
    main()
