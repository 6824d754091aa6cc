"""What networks score and what they cost: trained alike, as a table and a figure.

Every network sees the same images under the same recipe and is scored on the same validation
patches; the test split is not touched. Finished runs and timings are only read, so networks and
seeds can be added one after the other, and a stopped series goes on where it was.

    python benchmarks/accuracy.py DATASET --out RUNS --epochs 6 --seeds 3 \
        --encoder-weights tf_efficientnet_lite0=lite0.pth
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from training_runs import run_rows, summary

from hrrsi.networks.architecture import parsed_model
from hrrsi.profiling.operations import profile_model
from hrrsi.profiling.profile import model_latency
from hrrsi.quantities import TextTable
from hrrsi.tiling.dataset import TiledDataset

OWN = ("ued", "ued_bes", "ued_bes_sfm")
LITE = "tf_efficientnet_lite0"
NETWORKS = (*OWN, "unet-ghostnet_100", *(f"{name}-{LITE}" for name in (*OWN, "unet")))


@dataclass(frozen=True)
class Cost:
    """What a network costs: parameters, multiply-accumulates and milliseconds of a window."""

    parameters: int
    macs: int
    milliseconds: float


def network_cost(model: str, classes: int, size: int, file: Path) -> Cost:
    """Return the cost of a network, measured once and kept in a file."""
    if file.is_file():
        return Cost(**json.loads(file.read_text()))
    profile = profile_model(model, classes=classes, size=size)
    speed = model_latency(model, classes=classes, size=size)
    cost = Cost(profile.parameters, profile.operations.macs, speed.milliseconds)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(vars(cost)))
    return cost


def write_figure(scores: dict[str, list[float]], costs: dict[str, Cost], path: Path) -> None:
    """Draw mIoU (mean, and standard deviation over the seeds) against three costs."""
    from matplotlib import pyplot as plt

    axes_of = {
        "multiply-accumulates of a window, 1e9": lambda cost: cost.macs / 1e9,
        "milliseconds of a window": lambda cost: cost.milliseconds,
        "parameters, 1e6": lambda cost: cost.parameters / 1e6,
    }
    encoders = list(dict.fromkeys(parsed_model(model).encoder for model in scores))
    figure, all_axes = plt.subplots(1, 3, figsize=(15, 5), sharey=True, layout="constrained")
    for axes, (title, cost_of) in zip(all_axes, axes_of.items(), strict=True):
        for model, values in scores.items():
            name = parsed_model(model)
            place = cost_of(costs[model]), 100 * statistics.mean(values)
            spread = 100 * statistics.stdev(values) if len(values) > 1 else None
            colour = f"C{encoders.index(name.encoder)}"
            axes.errorbar(*place, yerr=spread, fmt="o", color=colour, capsize=3)
            axes.annotate(name.network, place, xytext=(6, 4), textcoords="offset points")
        axes.set_xlabel(title)
        axes.set_xscale("log")
        axes.grid(alpha=0.3, which="both")
    all_axes[0].set_ylabel("mIoU of the validation patches, percent")
    handles = [plt.Line2D([], [], marker="o", ls="", color=f"C{n}") for n in range(len(encoders))]
    figure.legend(handles, encoders, loc="outside upper center", ncols=len(encoders))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=0, help="px that training sees; 0: patches")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument(
        "--encoder-weights",
        action="append",
        default=[],
        metavar="ENCODER=FILE",
        help="what networks with an encoder start from; random where none is given",
    )
    parser.add_argument("--size", type=int, default=512, help="of the window that is timed")
    parser.add_argument("--table", action="store_true", help="show what is done, train nothing")
    arguments = parser.parse_args()
    weights = dict(pair.split("=", 1) for pair in arguments.encoder_weights)
    classes = len(TiledDataset(arguments.dataset).description.classes)
    models = arguments.networks.split(",")
    runs: dict[str, list[list[dict[str, str]]]] = {model: [] for model in models}
    for seed in range(arguments.seeds):
        for model in models:
            folder = arguments.out / f"seed{seed}"
            options = ["--batch", str(arguments.batch), "--precision", arguments.precision]
            options += ["--crop", str(arguments.crop), "--recipe", arguments.recipe]
            options += ["--seed", str(seed)]
            rows = run_rows(
                [arguments.dataset],
                folder,
                model,
                arguments.epochs,
                options,
                encoder_weights=weights.get(parsed_model(model).encoder, "none"),
                only_finished=arguments.table,
            )
            if rows:
                runs[model].append(rows)
    table = TextTable(
        ["network", "starts from", "seeds", "mIoU of the last epoch", "of the best epoch",
         "images seen", "parameters, M", "GMAC", "ms a window", "minutes"],
        left=(0, 1),
    )  # fmt: skip
    scores: dict[str, list[float]] = {}
    costs: dict[str, Cost] = {}
    for model, done in runs.items():
        if not done:
            continue
        file = arguments.out / "costs" / f"{model}-{classes}-{arguments.size}.json"
        cost = costs[model] = network_cost(model, classes, arguments.size, file)
        scores[model] = [float(rows[-1]["val_mIoU"]) for rows in done]
        # by the median epoch, which a pause or other work on the machine does not stretch
        seconds = [
            len(rows) * statistics.median(float(row["seconds"]) for row in rows) for rows in done
        ]
        table.add_row([
            model,
            Path(weights.get(parsed_model(model).encoder, "none")).name,
            len(done),
            summary(scores[model]),
            summary([max(float(row["val_mIoU"]) for row in rows) for rows in done]),
            done[0][-1]["images_seen"],
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.macs / 1e9:.2f}",
            f"{cost.milliseconds:.1f}",
            f"{statistics.mean(seconds) / 60:.1f}",
        ])  # fmt: skip
    print(table)
    if scores:
        write_figure(scores, costs, arguments.out / "accuracy.png")


if __name__ == "__main__":
    main()
