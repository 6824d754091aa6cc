r"""What pruning saves and costs, against a narrower network of equal cost that was trained alike.

    python benchmarks/pruning_gain.py SCENES DATASET --weights ued_bes_sfm.safetensors --out RUNS

DATASET is what the weights were trained on (`hrrsi tile --size 256` of SCENES). The narrower
network, `ued_bes_sfm` on a GhostNet of width 0.7, has 70 % of the multiply-accumulates; it is
trained from scratch on at least as many images as the weights, pruning and fine-tuning took
together. The weights as they are and fine-tuned without pruning stand beside it. Every network is
scored on whole scenes. Runs that are finished are only read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import hrrsi
from hrrsi.networks import architecture
from hrrsi.quantities import TextTable

NARROW = 0.7
SPLITS = ("standard:val", "standard:test")
BORDER = 3  # px


def add_width(width: float) -> str:
    """Let GhostNet have another width, and return the suffix of its networks."""
    suffix = f"_{width:g}".replace(".", "p")
    architecture.WIDTHS[suffix] = width
    architecture.STEM_CHANNELS[width] = 12  # make_divisible(16 * 0.7, 4)
    architecture._GHOSTNETS[width] = f"ghostnet_{100 * width:03.0f}"
    return suffix


def trained(
    arguments: argparse.Namespace, name: str, epochs: int, *, model: str, **own: object
) -> Path:
    """Return the best weights of a run, trained where it is not there yet."""
    lr = {"lr": arguments.lr} if "init" in own else {}
    options = hrrsi.TrainOptions(
        data=arguments.dataset,
        model=model,
        out=arguments.out / name,
        recipe=hrrsi.recipe_named("default", epochs=epochs, **lr),
        encoder_weights="none",
        seed=0,
        workers=1,
        **own,
    )
    return hrrsi.train(options, resume=True, quiet=True).weights


def pruned(arguments: argparse.Namespace, share: float) -> Path:
    """Return the weights without some channels, cut where they are not there yet."""
    path = arguments.out / f"pruned-{share:g}.safetensors"
    if not path.is_file():
        options = hrrsi.PruneOptions(macs=share)
        hrrsi.prune(arguments.weights, arguments.dataset, path, options=options)
    return path


def cells(arguments: argparse.Namespace, weights: Path) -> list[str]:
    """Return what a network scores and costs."""
    row = []
    for split in SPLITS:
        options = hrrsi.EvaluationOptions(scheme=arguments.scheme, split=split)
        result = hrrsi.evaluate(
            arguments.scenes,
            weights=weights,
            options=options,
            engine=hrrsi.EngineOptions(precision="32"),
        )
        interval = result.intervals["mIoU"]
        border = next(own for own in result.boundaries if own.tolerance == BORDER)
        row += [
            f"{100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})",
            f"{100 * border.mean_f1:.1f}",
        ]
    (profile,) = hrrsi.profile(weights=weights)
    return [
        *row,
        f"{profile.parameters:,}",
        f"{profile.operations.macs / 1e9:.3f}",
        f"{profile.file_bytes / 1e6:.2f}",
    ]


def main() -> None:
    """Print a table: a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--scheme", default="dubai")
    parser.add_argument("--weights", type=Path, required=True, help="of ued_bes_sfm")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shares", default="0.7,0.5", help="of multiply-accumulates")
    parser.add_argument("--epochs", type=int, default=14, help="that the weights were trained for")
    parser.add_argument("--fine-tune", type=int, default=3, help="epochs; 0: as they are")
    parser.add_argument("--lr", type=float, default=0.001, help="of fine-tuning")
    arguments = parser.parse_args()
    model, tuning = "ued_bes_sfm", arguments.fine_tune
    table = TextTable(
        ["network", *(f"{name} {s}" for s in SPLITS for name in ("mIoU", f"F1 at {BORDER} px")),
         "parameters", "GMACs", "MB"]
    )  # fmt: skip
    table.add_row(["the weights", *cells(arguments, arguments.weights)])
    for share in map(float, arguments.shares.split(",")):
        left = pruned(arguments, share)
        table.add_row([f"pruned to {share:g}", *cells(arguments, left)])
        if tuning:
            run = trained(arguments, f"tuned-{share:g}", tuning, model=model, init=left)
            table.add_row([f"pruned to {share:g}, fine-tuned", *cells(arguments, run)])
    if tuning:
        run = trained(arguments, "tuned-whole", tuning, model=model, init=arguments.weights)
        table.add_row(["the weights, fine-tuned", *cells(arguments, run)])
    narrow = model + add_width(NARROW)
    run = trained(arguments, "narrow", arguments.epochs + tuning, model=narrow)
    table.add_row([f"width {NARROW:g}, from scratch", *cells(arguments, run)])
    print(table, flush=True)


if __name__ == "__main__":
    main()
