r"""What the weights inside the package gain a new place that has a few labelled scenes.

One network is trained on 1, 3 and 10 scenes of it, from random weights, from an encoder that has
seen ImageNet, and from weights of other places; always for about as many steps. Every run is scored
on whole other scenes of that place. The first line are the weights of other places as they are.

    python benchmarks/init_gain.py SCENES --scheme SCHEME.yaml --pattern 'claremont_*' --out RUNS \
        --init without_claremont.safetensors --encoder-weights tf_efficientnet_lite0.safetensors

Runs that are finished are only read.
"""

from __future__ import annotations

import argparse
import random
from fnmatch import fnmatch
from pathlib import Path

import yaml

import hrrsi
from hrrsi.labels.labelled_scenes import labelled_scenes
from hrrsi.labels.scheme import load_scheme
from hrrsi.quantities import TextTable

PATCH, STRIDE, BATCH = 128, 32, 8
VALIDATION = 2


def tiled(arguments: argparse.Namespace, train: list[str], val: list[str]) -> Path:
    """Return the folder of a dataset of some scenes, tiled where it isn't there."""
    folder = arguments.out / f"dataset-{len(train)}"
    if not folder.is_dir():
        arguments.out.mkdir(parents=True, exist_ok=True)
        split = folder.with_suffix(".yaml")
        split.write_text(yaml.safe_dump({"train": train, "val": val, "test": []}))
        options = hrrsi.TileOptions(size=PATCH, stride=STRIDE, split=str(split))
        hrrsi.tile(arguments.scenes, arguments.scheme, folder, options=options)
    return folder


def score(arguments: argparse.Namespace, weights: Path, scenes: list[str]) -> str:
    """Return the mIoU of whole scenes in percent, with its interval."""
    options = hrrsi.EvaluationOptions(scheme=arguments.scheme, scenes=tuple(scenes))
    result = hrrsi.evaluate(arguments.scenes, weights=weights, options=options)
    interval = result.intervals["mIoU"]
    return f"{100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def main() -> None:
    """Print a table: a line for each start, a column for each number of scenes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--scheme", required=True)
    parser.add_argument("--pattern", default="*", help="of the place's scenes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="ued-tf_efficientnet_lite0")
    parser.add_argument("--init", type=Path, required=True, help="weights of other places")
    parser.add_argument("--encoder-weights", required=True)
    parser.add_argument("--numbers", default="1,3,10", help="of scenes")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--scored", type=int, default=60, help="scenes")
    parser.add_argument("--lr", type=float, default=0.001, help="highest learning rate")
    parser.add_argument("--only", default="", help="these of the starts, separated by semicolons")
    arguments = parser.parse_args()
    names = sorted(
        file.name
        for file in labelled_scenes([arguments.scenes], load_scheme(arguments.scheme))
        if fnmatch(file.name, arguments.pattern)
    )
    random.Random(0).shuffle(names)
    numbers = [int(number) for number in arguments.numbers.split(",")]
    scored = names[-arguments.scored :]
    val, pool = names[:VALIDATION], names[VALIDATION : VALIDATION + max(numbers)]
    if set(scored) & {*val, *pool}:
        raise SystemExit(f"{len(names)} scenes are too few")
    starts: dict[str, dict[str, object]] = {
        "random weights": {"encoder_weights": "none"},
        "ImageNet's encoder": {"encoder_weights": arguments.encoder_weights},
        "weights of other places": {"encoder_weights": "none", "init": arguments.init},
    }
    if arguments.only:
        starts = {start: starts[start] for start in arguments.only.split(";")}
    table = TextTable(["starts from", *(f"mIoU, {number} scenes" for number in numbers)])
    untrained = score(arguments, arguments.init, scored)
    table.add_row(["weights of other places, untrained", untrained, *[""] * (len(numbers) - 1)])
    for start, own in starts.items():
        row = []
        for number in numbers:
            dataset = tiled(arguments, pool[:number], val)
            patches = len(list((dataset / "train" / "image").iterdir()))
            epochs = max(1, round(arguments.steps * BATCH / patches))
            recipe = hrrsi.recipe_named("default", epochs=epochs, batch=BATCH, lr=arguments.lr)
            out = arguments.out / f"{start.replace(' ', '-')}-{number}-{arguments.lr}"
            training = hrrsi.TrainOptions(
                data=(dataset,), model=arguments.model, out=out, recipe=recipe, workers=0, **own
            )
            run = hrrsi.train(training, resume=True)
            row.append(score(arguments, run.weights, scored))
        table.add_row([start, *row])
        print(table, flush=True)


if __name__ == "__main__":
    main()
