"""A small dataset for classification, made of crops of the real imagery in examples/."""

from pathlib import Path

import numpy as np
from PIL import Image
from samples.repository import REPOSITORY

EXAMPLES = REPOSITORY / "examples" / "dubai"
CLASSES = ("tile1", "tile4", "tile5", "tile6")


def make_class_folders(folder: Path, *, train: int = 8, val: int = 4, side: int = 80) -> Path:
    """Write train/CLASS/*.JPEG and val/CLASS/*.JPEG, of sizes from `side` to 1.5 times that."""
    random = np.random.default_rng(5)
    for name in CLASSES:
        scenes = [
            Image.open(path).convert("RGB")
            for path in sorted((EXAMPLES / name / "images").glob("*.jpg"))
        ]
        for split, count in (("train", train), ("val", val)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                scene = scenes[number % len(scenes)]
                width, height = (int(n) for n in random.integers(side, side * 3 // 2, 2))
                left = int(random.integers(scene.width - width))
                top = int(random.integers(scene.height - height))
                crop = scene.crop((left, top, left + width, top + height))
                crop.save(folder / split / name / f"{name}_{number:03d}.JPEG", quality=90)
    return folder
