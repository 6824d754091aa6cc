"""What each part of the default recipe gains: runs of `hrrsi train` that differ in one option.

Every run sees the same number of images. Scores are those of the validation patches, which is what
recipes are chosen by; the test split is not touched. A stopped series goes on where it was, and
runs that are done are only read, so seeds and changes can be added one after the other.

    python benchmarks/recipe_ablation.py DATASET --out RUNS --images 7680 --seeds 3
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from training_runs import epochs_of, run_rows, summary

from hrrsi.quantities import TextTable
from hrrsi.training.options import DEFAULT, PUBLISHED

# The published recipe with one part of the default one; then the default recipe without each of
# its parts, and with what was tried and left out.
FROM_PUBLISHED: dict[str, list[str]] = {
    "published": ["--recipe", "published"],
    "published, with Dice": ["--recipe", "published", "--dice", "1"],
    "published, AdamW": [
        *("--recipe", "published", "--optimizer", "adamw"),
        *("--lr", str(DEFAULT.lr), "--weight-decay", str(DEFAULT.weight_decay)),
    ],
    "published, average of the weights": [
        *("--recipe", "published", "--average", str(DEFAULT.average)),
    ],
    "published, default augmentation": ["--recipe", "published", "--augmentation", "default"],
}
FROM_DEFAULT: dict[str, list[str]] = {
    "default": [],
    "default, with Dice": ["--dice", "1"],
    "default, published augmentation": ["--augmentation", "published"],
    "default, no augmentation": ["--augmentation", "none"],
    "default, no average of the weights": ["--average", "0"],
    "default, no warm-up": ["--warmup", "0"],
    "default, polynomial schedule": ["--schedule", "polynomial"],
    "default, SGD at 0.05": [
        *("--optimizer", "sgd", "--lr", "0.05", "--weight-decay", str(PUBLISHED.weight_decay)),
    ],
    "default, half the learning rate": ["--lr", str(DEFAULT.lr / 2)],
    "default, twice the learning rate": ["--lr", str(DEFAULT.lr * 2)],
    "default, rare classes more often": ["--sampling", "rare"],
    "default, classes weighted alike": ["--class-weights", "none"],
    "default, batches of 4": ["--batch", "4"],
    "default, float32": ["--precision", "32"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="ued_bes_sfm")
    parser.add_argument("--images", type=int, default=7680)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="bf16", help="of all runs but float32's own")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="names of changes, separated by semicolons")
    parser.add_argument("--table", action="store_true", help="show what is done, train nothing")
    arguments = parser.parse_args()
    epochs = epochs_of(arguments.dataset, arguments.images, arguments.batch)
    wanted = [name.strip() for name in arguments.only.split(";") if name.strip()]
    runs = {
        k: v for k, v in {**FROM_PUBLISHED, **FROM_DEFAULT}.items() if not wanted or k in wanted
    }
    rows_by_run: dict[str, list[list[dict[str, str]]]] = {name: [] for name in runs}
    for seed in range(arguments.seeds):
        for name, changes in runs.items():
            out = arguments.out / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            options = ["--batch", str(arguments.batch), "--precision", arguments.precision]
            options += [*changes, "--seed", str(seed)]
            rows = run_rows(
                [arguments.dataset],
                out,
                arguments.model,
                epochs,
                options,
                only_finished=arguments.table,
            )
            if rows:
                rows_by_run[name].append(rows)
    table = TextTable(
        ["recipe", "seeds", "mIoU of the last epoch", "of the best epoch", "images seen", "minutes"]
    )
    for name, done in rows_by_run.items():
        if done:
            seconds = [sum(float(row["seconds"]) for row in rows) for rows in done]
            table.add_row([
                name,
                len(done),
                summary([float(rows[-1]["val_mIoU"]) for rows in done]),
                summary([max(float(row["val_mIoU"]) for row in rows) for rows in done]),
                done[0][-1]["images_seen"],
                f"{statistics.mean(seconds) / 60:.1f}",
            ])  # fmt: skip
    print(table)


if __name__ == "__main__":
    main()
