"""What a file is: weights, a tiled dataset, a run or a raster, in a few lines a person reads."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrrsi.errors import HrrsiError, InputError
from hrrsi.extras import requiring
from hrrsi.files import read_yaml
from hrrsi.graphs.segmentation import NetworkGraph
from hrrsi.maps.rasters import read_class_raster
from hrrsi.maps.styles import is_as_written
from hrrsi.networks.architecture import parsed_model
from hrrsi.networks.model_meta import ModelMeta, hardware_text, score_lines, training_lines
from hrrsi.networks.weights_file import (
    encoder_of,
    is_packaged_name,
    is_safetensors,
    open_weights,
    weights_path,
)
from hrrsi.networks.weights_reading import read_meta
from hrrsi.quantities import area_text, counted, length_text, share_text, time_text
from hrrsi.runs.environment import read_environment
from hrrsi.runs.options import CONFIG, ENVIRONMENT, METRICS, NAN_BATCH
from hrrsi.scenes.bands import alpha_bands, open_imagery
from hrrsi.scenes.raster_opening import is_local, open_raster
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import DEFAULT_WINDOW, default_overlap, window_starts
from hrrsi.tiling.dataset import DESCRIPTION, TiledDataset

_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
_WINDOW, _OVERLAP = DEFAULT_WINDOW, default_overlap(DEFAULT_WINDOW)
_NOT_SETTINGS = ("data", "model", "encoder", "out", "device", "workers")
_SCORES = {"val_mIoU": "mIoU", "val_OA": "OA", "val_top1": "top-1", "val_top5": "top-5"}


@dataclass(frozen=True)
class FileInfo:
    """What a file is.

    Attributes:
        kind: ``weights``, ``encoder weights``, ``tiled dataset``, ``training run``,
            ``pre-training run``, ``class map`` or ``raster``.
        lines: Label and text, for people.
        data: The same and more as plain values, for programs.
    """

    kind: str
    lines: list[tuple[str, str]]
    data: dict[str, Any]


def info(path: str | Path) -> FileInfo:
    """Return what a file or folder is.

    Args:
        path: Weights (``.safetensors``, ``.pth``, or a name of the package's, ``default`` or
            ``light``), those of an encoder (`hrrsi pretrain`), a tiled
            dataset (its folder or its ``dataset.yaml``), the folder of a run, or whatever GDAL
            opens.

    Raises:
        InputError: It is none of these, or damaged.
        DependencyError: It holds a network that only PyTorch runs, and that is not installed.
    """
    local = Path(path)
    if not is_local(str(path)):
        return _raster_info(str(path))
    if is_packaged_name(path):
        local = weights_path(path)
    if local.name == DESCRIPTION:
        return _dataset_info(local.parent)
    if local.is_dir():
        if (local / DESCRIPTION).is_file():
            return _dataset_info(local)
        with _of_its_shape(path):
            run = _run_info(local)
        if run is None:
            raise InputError(
                f"is a folder without {DESCRIPTION}, and none of a run",
                where=path,
                fix="name a tiled dataset, a run folder, a weights file or a raster",
            )
        return run
    if local.suffix.lower() in _WEIGHTS_SUFFIXES:
        with _of_its_shape(path):
            return _weights_info(local)
    return _raster_info(str(path))


@contextmanager
def _of_its_shape(path: str | Path) -> Iterator[None]:
    """Raise where a free part of a description, such as the recipe's, is of another shape.

    Raises:
        InputError: It is.
    """
    try:
        yield
    except HrrsiError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            "what it says of itself is damaged", where=path, fix="copy it again"
        ) from error


def _weights_info(path: Path) -> FileInfo:
    if is_safetensors(path):
        with open_weights(path) as file:
            encoder = encoder_of(file.metadata() or {})
        if encoder is not None:
            return _encoder_info(path, encoder)
    meta, parameters = _weights_content(path)
    lines = [
        ("network", f"{meta.model}, {parameters:,} parameters, {_size(path)}"),
        ("classes", _named(meta.classes)),
        ("sees", _sees(meta.bands, meta.dtype, meta.scale, meta.height)),
        ("mean", _decimals(meta.mean)),
        ("std", _decimals(meta.std)),
        ("resolution", _resolution_text(meta)),
        *([("meant for", meta.purpose)] if meta.purpose else []),
        ("scheme", meta.scheme),
        *training_lines(meta.training),
        *score_lines(meta.scores),
        ("licence", meta.licence or "not said"),
    ]
    data = {**meta, "parameters": parameters, "file_size": path.stat().st_size}
    if meta.likeness is not None:  # thousands of numbers
        known = {"squares": len(meta.likeness["squares"]), "threshold": meta.likeness["threshold"]}
        data["likeness"] = known
        text = (
            "by {squares:,} squares of training patches; warns above a distance of {threshold:.2g}"
        )
        lines.append(("knows scenes", text.format(**known)))
    return FileInfo("weights", lines, data)


def _encoder_info(path: Path, about: dict[str, Any]) -> FileInfo:
    scores = [(name, about.get(key)) for name, key in (("top-1", "top1"), ("top-5", "top5"))]
    lines = [
        ("encoder", f"{about.get('encoder')}, {_size(path)}"),
        ("trained", f"by `hrrsi pretrain` on images of {len(about.get('classes', []))} classes"),
        ("validation", ", ".join(f"{name} {share_text(value)}" for name, value in scores)),
    ]
    return FileInfo("encoder weights", lines, {**about, "file_size": path.stat().st_size})


def _weights_content(path: Path) -> tuple[ModelMeta, int]:
    """Return what weights say of themselves, and their number of parameters.

    Raises:
        WeightsError: They can't be read, or their tensors are not those of their network.
        DependencyError: Only PyTorch runs the network, and it is not installed.
    """
    if not parsed_model(read_meta(path).model).has_graph:
        with requiring("gpu", f"the network {read_meta(path).model}"):
            from hrrsi.networks.weights import load_network

        network, meta = load_network(path)
        return meta, sum(parameter.numel() for parameter in network.parameters())
    graph = NetworkGraph(path)
    graph.onnx(graph.meta.band_count, 64, 64, "uint8")  # raises where tensors don't fit
    return graph.meta, graph.parameters


def _dataset_info(folder: Path) -> FileInfo:
    description = TiledDataset(folder).description
    resolution = description.resolution
    lines = [
        ("scheme", description.scheme),
        ("classes", _named(description.classes)),
        *(
            (f"label {label.name!r}", f"one of {', '.join(label.classes)}")
            for label in description.partial
        ),
        (
            "patches",
            f"{description.patch_size} x {description.patch_size} px, stride "
            f"{description.stride}, {description.patch_format}",
        ),
        (
            "holds",
            _sees(description.bands, description.dtype, description.scale, description.height),
        ),
        ("mean", f"{_decimals(description.mean)} ({description.statistics})"),
        ("std", f"{_decimals(description.std)} ({description.statistics})"),
        (
            "resolution",
            resolution if isinstance(resolution, str) else f"{length_text(resolution)} a pixel",
        ),
    ]
    for name, content in description.splits.items():
        if not content.patches:
            lines.append((name, "no patches"))
            continue
        labelled = sum(content.label_pixels)
        total = labelled + content.ignored_pixels
        shares = _shares(description.label_names, content.label_pixels)
        lines.append(
            (
                name,
                f"{content.patches:,} patches of {counted(len(content.scenes), 'scene')}, "
                f"{content.ignored_pixels / max(1, total):.1%} ignored: {shares}",
            )
        )
    return FileInfo("tiled dataset", lines, description.model_dump(mode="json"))


def _run_info(folder: Path) -> FileInfo | None:
    """Return what the folder of a run holds, or None where a folder is none."""
    if not ((folder / CONFIG).is_file() and (folder / ENVIRONMENT).is_file()):
        return None
    config, environment = read_yaml(folder / CONFIG), read_environment(folder)
    epochs = _metrics(folder / METRICS)
    network = config.get("model", config.get("encoder"))
    dataset, starts = environment["dataset"], environment.get("starts", [])
    items = [f"{number:,} {what}" for what, number in dataset.items() if isinstance(number, int)]
    data = config.get("data")
    folders = data if isinstance(data, list) else [data]
    settings = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
    lines = [
        ("network", str(network)),
        ("data", ", ".join([*map(str, folders), *items])),
        *training_lines(settings),
        ("done", f"{len(epochs)} of {counted(config.get('epochs', 0), 'epoch')}"),
        *_best_line(epochs),
    ]
    if starts:
        lines += _start_lines(starts, sum(row.get("seconds") or 0 for row in epochs))
    weights = [path.name for path in folder.glob("*.safetensors") if path.name != NAN_BATCH]
    lines.append(("weights", ", ".join(weights) or "none yet"))
    kind = "pre-training run" if "encoder" in config else "training run"
    return FileInfo(kind, lines, {"config": config, "environment": environment, "epochs": epochs})


def _metrics(path: Path) -> list[dict[str, float | None]]:
    """Return a row an epoch; None stands for what is not defined."""
    if not path.is_file():  # before the first epoch ends
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError) as error:
        raise InputError("is no table of metrics", where=path, fix="copy the run again") from error
    return [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in rows]


def _best_line(epochs: list[dict[str, float | None]]) -> list[tuple[str, str]]:
    chosen_by = next((key for key in ("val_mIoU", "val_top1") if epochs and key in epochs[0]), "")
    scored = [row for row in epochs if row.get(chosen_by) is not None]
    if not scored:
        return []
    best = max(scored, key=lambda row: row[chosen_by] or 0)
    scores = [f"{name} {share_text(best[key])}" for key, name in _SCORES.items() if key in best]
    return [("best", f"epoch {best['epoch']:.0f}: validation {', '.join(scores)}")]


def _start_lines(starts: list[dict[str, Any]], seconds: float) -> list[tuple[str, str]]:
    first, last = starts[0], starts[-1]
    resumed = f"; resumed {counted(len(starts) - 1, 'time')}" if len(starts) > 1 else ""
    versions = last.get("versions", {})
    kinds = ("python", "torch", "cuda")
    named = [f"{name} {versions[name]}" for name in kinds if versions.get(name, "none") != "none"]
    return [
        ("started", f"{first.get('time')}{resumed}"),
        ("took", f"{time_text(seconds)} on {hardware_text(last.get('hardware', {}))}"),
        ("software", ", ".join([f"hrrsi {last.get('hrrsi', {}).get('version')}", *named])),
    ]


def _raster_info(path: str) -> FileInfo:
    # one as it is stored, one with the CRS that stands beside it
    with open_raster(path) as dataset, open_imagery(path, 1) as placed:
        scene = Scene(path, placed, tuple(range(1, dataset.count + 1)))
        resolution = scene.resolution
        meanings = [meaning.name for meaning in dataset.colorinterp]
        types = sorted(set(dataset.dtypes))
        windows = len(window_starts(scene.height, _WINDOW, _WINDOW - _OVERLAP)) * len(
            window_starts(scene.width, _WINDOW, _WINDOW - _OVERLAP)
        )
        compression = dataset.compression.value if dataset.compression else "none"
        data: dict[str, Any] = {
            "driver": dataset.driver,
            "width": scene.width,
            "height": scene.height,
            "bands": dataset.count,
            "band_meanings": meanings,
            "dtypes": list(dataset.dtypes),
            "crs": _crs_name(placed),
            "bounds": None if placed.crs is None else list(placed.bounds),
            "resolution": resolution,
            "nodata": _nodata_sources(dataset),
            "compression": compression,
            "overviews": dataset.overviews(1),
            "windows": windows,
        }
    megapixels = scene.width * scene.height / 1e6
    lines = [
        ("size", f"{scene.width} x {scene.height} px ({megapixels:.1f} Mpx), {data['driver']}"),
        (
            "bands",
            f"{counted(data['bands'], 'band')} ({', '.join(meanings)}), {', '.join(types)}",
        ),
        ("CRS", data["crs"] or "none"),
        ("resolution", "unknown" if resolution is None else f"{length_text(resolution)} a pixel"),
        ("no data", data["nodata"] or "not declared"),
        ("stored", f"compression {compression}, {counted(len(data['overviews']), 'overview')}"),
        (
            "windows",
            f"{windows:,} of {_WINDOW} px that overlap by {_OVERLAP} px"
            if max(scene.width, scene.height) > _WINDOW
            else "1 (the raster is no larger than a window)",
        ),
    ]
    if resolution is not None:
        area = scene.width * scene.height * resolution**2
        lines.insert(4, ("area", area_text(area)))
    content = read_class_raster(path)
    if content is None:
        return FileInfo("raster", lines, data)
    classes = _shares(content.classes, content.class_pixels)
    if content.nodata_pixels:
        share = content.nodata_pixels / (scene.width * scene.height)
        classes += f"; no data in {share:.1%} of the raster"
    lines.append(("classes", classes))
    made_by = content.provenance
    lines.append(
        (
            "made by",
            f"hrrsi {made_by.get('VERSION', '?')}, {made_by.get('MODEL', '?')} "
            f"({made_by.get('WEIGHTS', '?')}), {made_by.get('OPTIONS', '')}",
        )
    )
    as_written = is_as_written(Path(path)) if is_local(path) else None
    if as_written is False:
        lines.append(("damage", "it was damaged or changed since it was written: map it again"))
    data |= {
        "as_written": as_written,
        "classes": content.classes,
        "class_pixels": content.class_pixels,
        "nodata_pixels": content.nodata_pixels,
        "provenance": made_by,
    }
    return FileInfo("class map", lines, data)


def _crs_name(dataset: Any) -> str | None:
    if dataset.crs is None:
        points, crs = dataset.gcps
        return f"{len(points)} ground control points, {crs}" if points else None
    code = dataset.crs.to_epsg()
    return f"EPSG:{code}" if code else str(dataset.crs.to_wkt()).split('"')[1]


def _nodata_sources(dataset: Any) -> str | None:
    alpha = alpha_bands(dataset)  # before the masks, as `PixelReader` says
    flags = {flag.name for flags in dataset.mask_flag_enums for flag in flags}
    if "nodata" in flags:
        values = list(dict.fromkeys(f"{v:g}" for v in dataset.nodatavals if v is not None))
        return f"value {', '.join(values)}"
    if "alpha" in flags or alpha:
        return "alpha band"
    return "mask" if "per_dataset" in flags else None


def _named(classes: Sequence[str]) -> str:
    return f"{len(classes)}: {', '.join(classes)}"


def _sees(bands: Sequence[int], dtype: str, scale: float, height: bool | str | None) -> str:
    listed = ", ".join(map(str, bands))
    text = f"{'band' if len(bands) == 1 else 'bands'} {listed} of {dtype} scenes, {scale:g} = full"
    if not height:
        return text
    return f"{text}; then heights" + (f" ({height})" if isinstance(height, str) else "")


def _shares(classes: Sequence[str], pixels: Sequence[int]) -> str:
    total = max(1, sum(pixels))
    return ", ".join(f"{c} {n / total:.1%}" for c, n in zip(classes, pixels, strict=True))


def _resolution_text(meta: ModelMeta) -> str:
    """Return the ground resolution of weights, and what range of it they saw."""
    own = "unknown" if meta.resolution is None else f"{length_text(meta.resolution)} a pixel"
    return own if meta.resolutions is None else f"{own}; saw {meta.resolutions_text}"


def _decimals(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4f}" for v in values)


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
