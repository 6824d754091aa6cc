"""The reference that `hrrsi train` is timed against: how the original trains.

Eager PyTorch in float32, channels first; patches are decoded by Pillow, and augmented, normalised
and given their edge target one by one in the loading processes; each loss is a chain of plain
operations over the whole batch, and goes to NumPy after each step. SGD and losses are the
published ones. Prints the seconds of some epochs without validation: imports, the network and the
start of the loading processes are not counted.

    python benchmarks/original_training.py DATASET --images 240 --workers 2
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import imgaug
import numpy as np
import torch
import torch.nn.functional as F
from imgaug import augmenters as iaa
from imgaug.augmentables.segmaps import SegmentationMapsOnImage
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hrrsi.networks.segmentation import build_network
from hrrsi.tiling.dataset import TiledDataset

IGNORED = 255
BATCH = 8
Item = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class OriginalPatches(Dataset[Item]):
    """Patches as the original reads them, `times` over."""

    def __init__(self, dataset: TiledDataset, times: int = 1) -> None:
        self.patches = dataset.patches("train") * times
        size = dataset.description.patch_size
        self.mean = np.asarray(dataset.description.mean, dtype=np.float32)
        self.std = np.asarray(dataset.description.std, dtype=np.float32)
        self.augmenter = iaa.Sequential(
            [
                iaa.Fliplr(0.5),
                iaa.Flipud(0.5),
                iaa.Resize(
                    {"shorter-side": (size // 2, size * 2), "longer-side": "keep-aspect-ratio"},
                    interpolation="linear",
                ),
                iaa.PadToFixedSize(size, size, position="uniform"),
                iaa.CropToFixedSize(size, size, position="uniform"),
                iaa.Sometimes(0.5, iaa.GaussianBlur(sigma=(0.0, 1.5))),
            ]
        )

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> Item:
        with Image.open(self.patches[index].image) as file:
            image = np.asarray(file.convert("RGB"))
        with Image.open(self.patches[index].label) as file:
            label = np.asarray(file)
        imgaug.seed(torch.initial_seed() % 2**31 + index)
        shifted = SegmentationMapsOnImage((label + np.uint8(1))[..., None], shape=image.shape)
        image, shifted = self.augmenter(image=image, segmentation_maps=shifted)
        label = shifted.get_arr()[..., 0].astype(np.uint8) - np.uint8(1)
        pixels = (image.astype(np.float32) / 255 - self.mean) / self.std
        return (
            torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            torch.from_numpy(label.astype(np.int64)),
            torch.from_numpy(edge_target_of(label)),
        )


def edge_target_of(label: np.ndarray) -> np.ndarray:
    """Return the 5 px band around class changes of one label: 1 edge, 0 not, 255 ignored."""
    kernel = np.ones((5, 5), np.uint8)
    is_labelled = label != IGNORED
    highest = cv2.dilate(np.where(is_labelled, label, 0).astype(np.uint8), kernel)
    lowest = cv2.erode(label, kernel)
    return np.where(is_labelled, highest > lowest, IGNORED).astype(np.int64)


class OriginalStep:
    """A step as the original makes it.

    Args:
        dataset: Classes and their frequencies.
        model: Name of the network.
    """

    def __init__(self, dataset: TiledDataset, model: str) -> None:
        description = dataset.description
        self.network = build_network(model, len(description.classes)).train()
        self.weights = 2 - torch.tensor(description.class_frequencies)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.004, momentum=0.9, weight_decay=5e-4
        )

    def __call__(self, image: torch.Tensor, label: torch.Tensor, edge: torch.Tensor) -> list[Any]:
        """Make a step, and return its losses as arrays."""
        maps = self.network(image)
        losses = [self.segmentation_loss(maps["lbl"], label)]
        if "bdy" in maps:
            losses.append(self.body_loss(maps["bdy"], label))
            losses.append(edge_loss(maps["edg"], edge))
        loss = torch.stack(losses).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return [value.detach().cpu().numpy() for value in (*losses, loss)]

    def segmentation_loss(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the class-weighted cross-entropy."""
        total = F.cross_entropy(
            logits, label, weight=self.weights, ignore_index=IGNORED, reduction="sum"
        )
        return total / label.numel()

    def body_loss(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the relaxed cross-entropy."""
        is_labelled = label != IGNORED
        one_hot = F.one_hot(label.masked_fill(~is_labelled, 0), logits.shape[1]).permute(0, 3, 1, 2)
        target = F.avg_pool2d((one_hot * is_labelled[:, None]).float(), 5, 1)
        relaxed = F.avg_pool2d(logits.softmax(1), 5, 1).clamp_min(1e-30)
        divergence = torch.xlogy(target, target) - target * relaxed.log()
        return (divergence * self.weights[:, None, None]).sum() / label.numel()


def edge_loss(logits: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
    is_edge, is_labelled = (edge == 1).numpy(), (edge != IGNORED).numpy()
    share = is_edge.sum() / max(1, is_labelled.sum())
    weight = torch.from_numpy(np.where(is_edge, 2 - share, 1 + share) * is_labelled).float()
    total = F.binary_cross_entropy_with_logits(
        logits, (edge == 1).float(), weight=weight, reduction="sum"
    )
    return total / edge.numel()


def original_batches(dataset: TiledDataset, workers: int, times: int = 1) -> DataLoader[Item]:
    return DataLoader(
        OriginalPatches(dataset, times), BATCH, shuffle=True, drop_last=True, num_workers=workers
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", default="ued_bes_sfm")
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    dataset = TiledDataset(arguments.dataset)
    step = OriginalStep(dataset, arguments.model)
    times = -(-(arguments.images + BATCH) // len(dataset.patches("train")))
    batches = iter(original_batches(dataset, arguments.workers, times))
    step(*next(batches))  # what is set up at the first step is not counted
    start = time.perf_counter()
    steps = arguments.images // BATCH
    for _ in range(steps):
        step(*next(batches))
    print(json.dumps({"images": steps * BATCH, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
