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
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from original_training import BATCH, OriginalPatches, OriginalStep
from prettytable import PrettyTable

from hrrsi.device import chosen_device
from hrrsi.networks.segmentation import build_network
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.tiling.patch_reading import read_image, read_label
from hrrsi.training.augmentation import Augmentation
from hrrsi.training.losses import batch_losses, class_weights, edge_target
from hrrsi.training.memory_reuse import keep_freed_memory
from hrrsi.training.optimisation import optimizer_and_schedule
from hrrsi.training.recipes import PUBLISHED
from hrrsi.training.strided_convolutions import keep_strided_depthwise_single

HERE = Path(__file__).parent


class OurStep:
    """A step as `hrrsi train` makes it: channels-last, its own losses, edge target in the batch."""

    def __init__(self, dataset: TiledDataset, model: str, device: str, bf16: bool) -> None:
        description = dataset.description
        network = build_network(model, len(description.classes)).train()
        self.network = network.to(device, memory_format=torch.channels_last)
        if bf16 and device == "cpu":
            keep_strided_depthwise_single(self.network)
        self.weights = class_weights(torch.tensor(description.class_frequencies)).to(device)
        self.optimizer = optimizer_and_schedule(self.network, PUBLISHED, 100_000)["optimizer"]
        self.device = device
        self.bf16 = bf16

    def arithmetic(self) -> AbstractContextManager[object]:
        """Return the precision that the network computes in."""
        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext()

    def __call__(self, image: torch.Tensor, label: torch.Tensor) -> None:
        """Make a step."""
        image = image.contiguous(memory_format=torch.channels_last)
        with self.arithmetic():
            maps = self.network(image)
        losses = batch_losses(maps, label, self.weights, PUBLISHED)
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()


def seconds_of(work: Callable[[], object], device: str, times: int = 1) -> float:
    """Return the seconds of one of several executions of a piece of work."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def medians(work: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median of what each piece of work returns, over interleaved rounds."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            found[name].append(run())
    return {name: statistics.median(values) for name, values in found.items()}


STEPS = {
    "original": "original: float32, channels first",
    "32": "hrrsi, --precision 32",
    "bf16": "hrrsi, --precision bf16",
}


def step_seconds(dataset: TiledDataset, model: str, device: str, which: str) -> float:
    """Return the seconds of one of five steps on a batch in memory, after one."""
    items = [OriginalPatches(dataset)[index] for index in range(BATCH)]
    image, label, edge = (torch.stack(parts).to(device) for parts in zip(*items, strict=True))
    if which == "original":
        original = OriginalStep(dataset, model)
        original.network.to(device)
        original.weights = original.weights.to(device)
        return warm_seconds(lambda: original(image, label, edge), device)
    keep_freed_memory()
    ours = OurStep(dataset, model, device, bf16=which == "bf16")
    small = label.to(torch.uint8)
    return warm_seconds(lambda: ours(image, small), device)


def warm_seconds(step: Callable[[], object], device: str) -> float:
    """Return the seconds of one of five executions, after one that is not counted."""
    step()
    return seconds_of(step, device, 5)


def step_table(data: Path, model: str, device: str, rounds: int) -> PrettyTable:
    """Return images per second of the step alone, each round in a process of its own."""

    def run(which: str) -> float:
        command = [sys.executable, __file__, str(data), "--model", model, "--device", device]
        command += ["--step", which]
        return float(subprocess.run(command, check=True, capture_output=True).stdout)

    found = medians({which: lambda which=which: run(which) for which in STEPS}, rounds)
    table = PrettyTable(["step alone", "images/s", "times the original"])
    for which, seconds in found.items():
        speed, ratio = BATCH / seconds, found["original"] / seconds
        table.add_row([STEPS[which], f"{speed:.2f}", f"{ratio:.2f}"])
    return table


def stage_table(dataset: TiledDataset, model: str, device: str, rounds: int) -> PrettyTable:
    """Return the milliseconds an image that each stage of our training takes."""
    description = dataset.description
    patches = dataset.patches("train")[:BATCH]
    augmentation = Augmentation("published", description.patch_size, description.scale)
    images = [read_image(p, description).transpose(1, 2, 0) for p in patches]
    labels = [read_label(p, description) for p in patches]
    batch = torch.randn(BATCH, 3, description.patch_size, description.patch_size, device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    label = torch.stack([torch.from_numpy(values) for values in labels]).to(device)
    ours = OurStep(dataset, model, device, bf16=True)
    taken: dict[str, float] = {}

    def part(name: str, work: Callable[[], object]) -> object:
        result: list[object] = []
        taken[name] = seconds_of(lambda: result.append(work()), device)
        return result[0]

    def once() -> float:
        def forward() -> dict[str, torch.Tensor]:
            with ours.arithmetic():
                maps: dict[str, torch.Tensor] = ours.network(batch)
            return maps

        part("read and decode (in workers)", lambda: [
            (read_image(p, description), read_label(p, description)) for p in patches
        ])  # fmt: skip
        part("augmentation (in workers)", lambda: [
            augmentation(i, t, n) for n, (i, t) in enumerate(zip(images, labels, strict=True))
        ])  # fmt: skip
        maps = part("forward", forward)
        part("edge target", lambda: edge_target(label))
        losses = part("losses, edge target and their own gradients included", lambda: torch.stack(
            list(batch_losses(maps, label, ours.weights, PUBLISHED).values())  # type: ignore[arg-type]
        ).sum())  # fmt: skip
        ours.optimizer.zero_grad()
        part("backward", losses.backward)  # type: ignore[attr-defined]
        part("optimiser", ours.optimizer.step)
        return 0.0

    once()
    rows: dict[str, list[float]] = {}
    for _ in range(rounds):
        once()
        for name, seconds in taken.items():
            rows.setdefault(name, []).append(seconds)
    table = PrettyTable(["stage of a step, bf16", "ms an image"])
    for name, values in rows.items():
        table.add_row([name, f"{1000 * statistics.median(values) / BATCH:.1f}"])
    return table


def end_to_end_table(dataset: TiledDataset, model: str, images: int, rounds: int) -> PrettyTable:
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
            command += ["--recipe", "published", "--epochs", "2", "--encoder-weights", "none"]
            command += ["--precision", precision, "--out", str(folder / "runs"), "--overwrite"]
            subprocess.run([*command, "--quiet"], check=True, capture_output=True)
            with (folder / "runs" / model / "metrics.csv").open() as file:
                return float(list(csv.DictReader(file))[-1]["images_per_second"])

        found = medians(
            {
                "original": original,
                "hrrsi train --recipe published --precision 32": lambda: ours("32"),
                "hrrsi train --recipe published --precision bf16": lambda: ours("bf16"),
            },
            rounds,
        )
    table = PrettyTable(["end to end", "images/s", "times the original"])
    for name, speed in found.items():
        table.add_row([name, f"{speed:.2f}", f"{speed / found['original']:.2f}"])
    return table


def write_part(dataset: TiledDataset, folder: Path, images: int) -> None:
    """Write a tiled dataset of links to the first patches for training and two for validation."""
    description = dataset.description.model_copy(deep=True)
    description.splits.pop("test", None)
    for split, count in (("train", images), ("val", 2)):
        patches = dataset.patches(split)[:count]
        description.splits[split].patches = len(patches)  # type: ignore[index]
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
