"""Images per second of a training step, of whole training, and where the time goes.

Everything is timed in interleaved rounds, so that a machine that slows down slows everybody down;
medians and ratios to the original's way are printed.

    python benchmarks/train_speed.py DATASET
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from original_training import BATCH, OriginalPatches, OriginalStep

from hrrsi.hardware import chosen_device
from hrrsi.quantities import TextTable
from hrrsi.runs.options import Precision
from hrrsi.runs.precision import NetworkPrecision
from hrrsi.runs.steps import keep_freed_memory
from hrrsi.tiling.dataset import TiledDataset, read_image, read_label
from hrrsi.training.augmentation import Augmentation
from hrrsi.training.initial_weights import first_network
from hrrsi.training.losses import batch_losses, candidate_table, edge_target, label_weights
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import DEFAULT, TrainOptions, recipe_named
from hrrsi.training.patch_batches import training_batches

HERE = Path(__file__).parent


class OurStep:
    """A step of `hrrsi train` under the default recipe, from the patches' bytes to the average.

    Args:
        dataset: A tiled dataset.
        model: Name of the network.
        device: ``cpu`` or ``cuda``.
        precision: ``32`` or ``bf16``.
    """

    def __init__(
        self, dataset: TiledDataset, model: str, device: str, precision: Precision
    ) -> None:
        options = TrainOptions(
            data=dataset.folder,
            model=model,
            recipe=recipe_named("default", batch=BATCH),
            encoder_weights="none",
            precision=precision,
            device=device,
            workers=0,
        )
        network = first_network(options, dataset, resume=False, report=print)
        training = SegmentationTraining(network, options, dataset.description, steps=100_000)
        self.training = training.to(device)
        self.optimizer, self.schedule = self.training.optimizer_and_schedule()
        self.batch = [part.to(device) for part in next(iter(training_batches(dataset, options)))]
        self.steps = 0
        mixed = NetworkPrecision("bf16-mixed", torch.device(device).type)
        self.autocast: Callable[[], Any] = (
            mixed.forward_context if precision == "bf16" else nullcontext
        )

    def forward(self) -> torch.Tensor:
        """Return the loss of the batch."""
        with self.autocast():
            loss: torch.Tensor = self.training(self.batch)
            return loss

    def optimise(self) -> None:
        """Move the weights and the learning rate."""
        self.optimizer.step()
        self.schedule.step()

    def average(self) -> None:
        """Move the average of the weights."""
        self.training.after_step(self.steps)
        self.steps += 1

    def __call__(self) -> None:
        """Make a step."""
        loss = self.forward()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimise()
        self.average()


def seconds_of(work: Callable[[], object], device: str, times: int = 1) -> float:
    """Return the seconds of one of several executions of a piece of work."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        work()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def medians(work: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median of what each piece of work returns, over interleaved rounds."""
    measured: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            measured[name].append(run())
    return {name: statistics.median(values) for name, values in measured.items()}


PRECISIONS: dict[str, Precision] = {"32": "32", "bf16": "bf16"}
STEPS = {
    "original": "original: float32, channels first",
    **{name: f"hrrsi train --precision {name}" for name in PRECISIONS},
    "autocast": "the same in bf16 as torch.autocast alone computes it",
}


def step_seconds(dataset: TiledDataset, model: str, device: str, which: str) -> float:
    """Return the seconds of one of five steps on a batch in memory, after one."""
    if which != "original":
        keep_freed_memory()
        step = OurStep(dataset, model, device, PRECISIONS.get(which, "bf16"))
        if which == "autocast":
            step.autocast = partial(
                torch.autocast, torch.device(device).type, torch.bfloat16, cache_enabled=False
            )
        return warm_seconds(step, device)
    items = [OriginalPatches(dataset)[index] for index in range(BATCH)]
    image, label, edge = (torch.stack(parts).to(device) for parts in zip(*items, strict=True))
    original = OriginalStep(dataset, model)
    original.network.to(device)
    original.weights = original.weights.to(device)
    return warm_seconds(lambda: original(image, label, edge), device)


def warm_seconds(step: Callable[[], object], device: str) -> float:
    """Return the seconds of one of five executions, after one that is not counted."""
    step()
    return seconds_of(step, device, 5)


def step_table(data: Path, model: str, device: str, rounds: int) -> TextTable:
    """Return images per second of the step alone, each round in a process of its own."""

    def run(which: str) -> float:
        command = [sys.executable, __file__, str(data), "--model", model, "--device", device]
        command += ["--step", which]
        return float(subprocess.run(command, check=True, capture_output=True).stdout)

    seconds_of_step = medians({which: lambda which=which: run(which) for which in STEPS}, rounds)
    table = TextTable(["step alone", "images/s", "times the original"])
    for which, seconds in seconds_of_step.items():
        speed, ratio = BATCH / seconds, seconds_of_step["original"] / seconds
        table.add_row([STEPS[which], f"{speed:.2f}", f"{ratio:.2f}"])
    return table


def stage_table(dataset: TiledDataset, model: str, device: str, rounds: int) -> TextTable:
    """Return the milliseconds an image that each stage of our training takes."""
    description = dataset.description
    patches = dataset.patches("train")[:BATCH]
    name = DEFAULT.augmentation
    augmentation = Augmentation(name, description.patch_size)
    pairs = [
        (read_image(p, description).transpose(1, 2, 0), read_label(p, description)) for p in patches
    ]

    def read() -> None:
        for patch in patches:
            read_image(patch, description)
            read_label(patch, description)

    def augment() -> None:
        for seed, (image, label) in enumerate(pairs):
            augmentation(image, label, seed)

    candidates = candidate_table(description)
    weights = label_weights(torch.tensor(description.class_frequencies), candidates).to(device)
    candidates = candidates.to(device)
    stages: dict[str, list[float]] = {}

    def part(name: str, work: Callable[[], object]) -> None:
        stages.setdefault(name, []).append(seconds_of(work, device))

    def once(step: OurStep, precision: str) -> None:
        training, (image, label, _) = step.training, step.batch

        def forward() -> None:
            with step.autocast():
                values["maps"] = training.network(values["pixels"])

        def losses() -> None:
            recipe = training.options.recipe
            parts = batch_losses(values["maps"], label, weights, candidates, recipe)
            values["loss"] = torch.stack(list(parts.values())).sum()

        values: dict[str, Any] = {}
        part(
            f"{precision}: normalisation", lambda: values.update(pixels=training.normalised(image))
        )
        part(f"{precision}: forward", forward)
        part(f"{precision}: losses, edge target and their own gradients included", losses)
        step.optimizer.zero_grad()
        part(f"{precision}: backward", lambda: torch.autograd.backward(values["loss"]))
        part(f"{precision}: optimiser", step.optimise)
        part(f"{precision}: moving average", step.average)

    steps = {name: OurStep(dataset, model, device, PRECISIONS[name]) for name in PRECISIONS}
    for number in range(rounds + 1):
        if number == 1:
            stages.clear()  # the first also prepares
        part("read and decode (in workers)", read)
        part("augmentation (in workers)", augment)
        part("edge target alone", lambda: edge_target(steps["32"].batch[1], candidates))
        for precision, step in steps.items():
            once(step, precision)
    table = TextTable(["stage of a step", "ms an image"])
    for name, values in stages.items():
        table.add_row([name, f"{1000 * statistics.median(values) / BATCH:.1f}"])
    return table


def end_to_end_table(dataset: TiledDataset, model: str, images: int, rounds: int) -> TextTable:
    """Return images per second of training with its loader, validation and first step left out."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / "dataset"
        write_part(dataset, data, images)

        def original() -> float:
            command = [sys.executable, str(HERE / "original_training.py"), str(data)]
            command += ["--model", model, "--images", str(images)]
            done = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            return float(done["images"] / done["seconds"])

        def ours(precision: str) -> float:
            command = [sys.executable, "-m", "hrrsi", "train", str(data), "--model", model]
            command += ["--epochs", "2", "--batch", str(BATCH), "--encoder-weights", "none"]
            command += ["--precision", precision, "--out", str(folder / "runs"), "--overwrite"]
            subprocess.run([*command, "--quiet"], check=True, capture_output=True)
            with (folder / "runs" / model / "metrics.csv").open() as file:
                return float(list(csv.DictReader(file))[-1]["images_per_second"])

        speeds = medians(
            {
                "original": original,
                STEPS["32"]: lambda: ours("32"),
                STEPS["bf16"]: lambda: ours("bf16"),
            },
            rounds,
        )
    table = TextTable(["end to end", "images/s", "times the original"])
    for name, speed in speeds.items():
        table.add_row([name, f"{speed:.2f}", f"{speed / speeds['original']:.2f}"])
    return table


def write_part(dataset: TiledDataset, folder: Path, images: int) -> None:
    """Write a tiled dataset of links to the first patches for training and two for validation."""
    description = dataset.description.model_copy(deep=True)
    description.splits.pop("test", None)
    splits = {str(name): content for name, content in description.splits.items()}
    for split, count in (("train", images), ("val", 2)):
        patches = dataset.patches(split)[:count]
        splits[split].patches = len(patches)
        for patch in patches:
            for kind, path in (("image", patch.image), ("label", patch.label)):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                (folder / split / kind / path.name).symlink_to(path.resolve())
    (folder / "dataset.yaml").write_text(description.to_yaml())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path, help="a tiled dataset of 512 px patches")
    parser.add_argument("--model", default="ued_bes_sfm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=120, help="images of an end-to-end round")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    dataset = TiledDataset(arguments.dataset)
    device = chosen_device(arguments.device)
    if arguments.step:
        print(step_seconds(dataset, arguments.model, device, arguments.step))
        return
    rest = (arguments.model, device, arguments.rounds)
    print(f"{arguments.model}, batch {BATCH}, {device}, {torch.get_num_threads()} threads")
    print(step_table(arguments.dataset, *rest))
    keep_freed_memory()
    print(stage_table(dataset, *rest))
    print(end_to_end_table(dataset, arguments.model, arguments.images, 3))


if __name__ == "__main__":
    main()
