"""Evaluations of made scenes and maps, for tests of what is shown of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from hrrsi.evaluation.evaluate import SceneSet
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.evaluation import Evaluation, MapFiles
from hrrsi.evaluation.options import named_protocol
from hrrsi.evaluation.result import EvaluationResult
from hrrsi.evaluation.scene_counts import PooledCounts, SceneCounts
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import load_scheme
from hrrsi.report.model_sections import EvaluatedMap
from hrrsi.report.scene_views import SceneViewCollector

COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
CLASSES = ("impervious surface", "building", "low vegetation", "tree", "car", "clutter")
STRIP = 128


@dataclass
class MadeScene:
    """A scene with its labels; maps of it are made by `made_prediction`."""

    name: str
    path: Path
    truth: np.ndarray


def made_scene(folder: Path, name: str, height: int, width: int, seed: int) -> MadeScene:
    """Write an image whose texture follows its labels: blobs of six classes, some unlabelled."""
    random = np.random.default_rng(seed)
    scores = np.stack([_smooth(random, height, width, 40) for _ in CLASSES])
    truth = scores.argmax(axis=0).astype(np.uint8)
    hues = random.integers(40, 210, (len(CLASSES), 3))
    noise = (
        random.normal(0, 14, (height, width, 1)) + 10 * _smooth(random, height, width, 6)[..., None]
    )
    pixels = np.clip(hues[truth] + noise, 0, 255).astype(np.uint8)
    truth[: height // 10, : width // 8] = 255
    path = folder / f"scene{seed}.tif"  # names may hold what files can't
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": height, "width": width}
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    return MadeScene(name, path, truth)


def made_prediction(
    scene: MadeScene, seed: int, wrong: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Return a map with errors in patches, and its confidence."""
    random = np.random.default_rng(1000 + seed)
    height, width = scene.truth.shape
    where = _smooth(random, height, width, 16)
    bad = where > np.quantile(where, 1 - wrong)
    prediction = np.where(scene.truth == 255, 0, scene.truth).astype(np.uint8)
    shift = (1 + (_smooth(random, height, width, 60) > 0)).astype(np.uint8)
    prediction = np.where(bad, (prediction + shift) % len(CLASSES), prediction).astype(np.uint8)
    confidence = np.clip(0.95 - 0.5 * bad + random.normal(0, 0.05, bad.shape), 0.2, 1)
    return prediction, confidence.astype(np.float32)


def evaluated_map(
    name: str,
    scenes: Sequence[MadeScene],
    seed: int,
    *,
    classes: Sequence[str] = CLASSES,
    wrong: float = 0.2,
    protocol: str = "all",
    augmented: bool = False,
    block: int = 64,
    **more: object,
) -> EvaluatedMap:
    """Evaluate a made map, as `evaluate_scenes` does with a network's."""
    collector = begun_views([SceneFiles(scene.name, str(scene.path)) for scene in scenes])
    evaluation = _evaluation(scenes, seed, classes, wrong, block, collector)
    better = _evaluation(scenes, seed, classes, wrong * 0.9, block, None) if augmented else None
    report = EvaluationResult(
        evaluation,
        named_protocol(protocol, classes),
        MapFiles((f"{name}.tif",)),
        augmented=better,
    )
    return EvaluatedMap(name, report, collector.views, **more)


def begun_views(files: Sequence[SceneFiles], *, are_maps: bool = False) -> SceneViewCollector:
    """Return what collects pictures of scenes whose strips follow."""
    collector = SceneViewCollector()
    scheme = load_scheme("vaihingen")
    collector.begin(SceneSet(files, scheme, COLOURS, bands_of=None, are_maps=are_maps))
    return collector


def _evaluation(scenes, seed, classes, wrong, block, collector) -> Evaluation:
    counts = []
    for number, scene in enumerate(scenes):
        prediction, confidence = made_prediction(scene, seed + number, wrong)
        areas = np.full(len(scene.truth), 0.0081)
        seen = SceneCounts(scene.name, classes, "full", block, areas)
        file = SceneFiles(scene.name, str(scene.path))
        strips = [
            EvaluatedStrip(row, scene.truth[part], prediction[part], confidence[part])
            for row in range(0, len(scene.truth), STRIP)
            for part in [slice(row, row + STRIP)]
        ]
        for strip in strips if collector else []:
            collector.add(file, strip)
        seen.add(strips)
        counts.append(seen)
    return Evaluation(
        counts=PooledCounts(tuple(counts)),
        colours=COLOURS,
        data="vaihingen",
        split="paper:val",
        scenes=tuple(s.name for s in scenes),
        unit="whole scenes",
        window=512,
        overlap=96,
        labels="full",
        unknown_pixels=0,
        augmentation="none" if collector else "d4",
        model="ued_bes_sfm",
        seen_in_training=(),
    )


def _smooth(random: np.random.Generator, height: int, width: int, size: int) -> np.ndarray:
    """Return noise without details smaller than about `size`, of mean 0 and deviation 1."""
    coarse = random.normal(size=(height // size + 3, width // size + 3)).astype(np.float32)
    surface = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return (surface - surface.mean()) / surface.std()
