"""Whether body and edge supervision and the fusion of scores earn their parameters.

Networks are trained alike: the same recipe, images seen and seeds. Then each maps whole labelled
scenes that no run was trained on, and each two networks are compared over the same blocks of these
scenes: the difference is that of the scores' means over the seeds, with a bootstrap interval and
the p of a paired test (`hrrsi.evaluation.intervals`). How far single runs lie apart is said
beside the means. A stopped series goes on where it was.

    python benchmarks/supervision_gain.py DATASET SCENES --split val --out RUNS --seeds 3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
from training_runs import epochs_of, run_rows, summary

from hrrsi.evaluation.intervals import Counts, Floats, score_differences
from hrrsi.evaluation.options import ALL
from hrrsi.evaluation.result import mean_boundary_scores
from hrrsi.evaluation.scene_choice import chosen_scenes
from hrrsi.evaluation.scene_counts import PooledCounts
from hrrsi.evaluation.scene_evaluation import evaluate_scenes
from hrrsi.evaluation.scores import named_scores
from hrrsi.labels.labelled_scenes import labelled_scenes
from hrrsi.labels.scheme import load_scheme
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import EngineOptions
from hrrsi.profiling.operations import profile_model
from hrrsi.quantities import TextTable

ScoresOf = Callable[[Counts], Mapping[str, Floats]]
SHOWN = ("OA", "mF1", "mIoU", "boundary F1 at 1 px", "boundary F1 at 3 px", "boundary IoU at 3 px")


def seeds_mean(scores: ScoresOf) -> ScoresOf:
    """Return what gives means over seeds, from counts (n, seeds, ...)."""
    return lambda counts: {name: values.mean(axis=-1) for name, values in scores(counts).items()}


def boundaries_of(counts: Counts) -> dict[str, Floats]:
    """Return mean boundary scores under names that say so."""
    return {f"boundary {name}": v for name, v in mean_boundary_scores(counts).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path, help="patches to train on")
    parser.add_argument("scenes", type=Path, nargs="+", help="scenes and labels to score")
    parser.add_argument("--scheme", default="dubai")
    parser.add_argument("--split", default="val")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default="ued,ued_bes,ued_bes_sfm")
    parser.add_argument("--images", type=int, default=8256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="bf16", help="of the training")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    scheme = load_scheme(arguments.scheme)
    scene_files = labelled_scenes(arguments.scenes, scheme)
    chosen = chosen_scenes(scene_files, scheme, split=arguments.split)
    epochs = epochs_of(arguments.dataset, arguments.images, arguments.batch)
    models = arguments.models.split(",")
    counts: dict[str, list[PooledCounts]] = {model: [] for model in models}
    for seed in range(arguments.seeds):
        for model in models:
            out = arguments.out / f"{model}-{seed}"
            options = ["--batch", str(arguments.batch), "--precision", arguments.precision]
            run_rows([arguments.dataset], out, model, epochs, [*options, "--seed", str(seed)])
            engine = open_engine(out / model / "best.safetensors", EngineOptions(precision="32"))
            evaluation = evaluate_scenes(chosen.files, scheme, engine, split=chosen.split)
            counts[model].append(evaluation.counts)
            print(f"{model}, seed {seed}: scored", file=sys.stderr, flush=True)
    classes = counts[models[0]][0].matrix("full").classes
    families: list[tuple[ScoresOf, dict[str, Counts]]] = [
        (
            partial(named_scores, classes=classes, protocol=ALL),
            {m: np.stack([c.blocks("full") for c in runs], axis=1) for m, runs in counts.items()},
        ),
        (
            boundaries_of,
            {m: np.stack([c.boundary_blocks for c in runs], axis=1) for m, runs in counts.items()},
        ),
    ]
    table = TextTable(["network", "parameters", *SHOWN])
    for model in models:
        singles = {
            name: values
            for scores, blocks in families
            for name, values in scores(blocks[model].sum(axis=0)).items()
        }
        parameters = f"{profile_model(model, classes=len(classes)).parameters / 1e6:.2f} M"
        table.add_row([model, parameters, *(summary(list(singles[name])) for name in SHOWN)])
    print(table)
    pairs = list(combinations(models, 2))
    differences = {
        pair: {
            name: difference
            for scores, blocks in families
            for name, difference in score_differences(
                blocks[pair[0]], blocks[pair[1]], seeds_mean(scores)
            ).items()
        }
        for pair in pairs
    }
    table = TextTable(["score", *(f"{model} - {other}" for other, model in pairs)])
    for name in SHOWN:
        row = [differences[pair][name] for pair in pairs]
        table.add_row([
            name,
            *(
                f"{100 * d.interval.value:+.2f} ({100 * d.interval.low:+.2f} to "
                f"{100 * d.interval.high:+.2f}), p {d.p:.4f}"
                for d in row
            ),
        ])  # fmt: skip
    print(table)


if __name__ == "__main__":
    main()
