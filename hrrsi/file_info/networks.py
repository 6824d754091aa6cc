"""What weights and tiled datasets say of themselves, in a few lines a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrrsi.errors import HrrsiError, InputError
from hrrsi.extras import requiring
from hrrsi.file_info.geodata import FileInfo, shares_text
from hrrsi.graphs.exported import ExportedGraph
from hrrsi.graphs.segmentation import NetworkGraph
from hrrsi.networks.architecture import parsed_model
from hrrsi.networks.exported_file import file_bytes, is_exported
from hrrsi.networks.model_meta import (
    ModelMeta,
    pruning_lines,
    quantization_lines,
    score_lines,
    training_lines,
)
from hrrsi.networks.weights_file import encoder_of, is_safetensors, open_weights
from hrrsi.networks.weights_reading import read_meta
from hrrsi.quantities import counted, length_text, share_text
from hrrsi.tiling.dataset import TiledDataset


@contextmanager
def of_its_shape(path: str | Path) -> Iterator[None]:
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


def weights_info(path: Path) -> FileInfo:
    """Return what a weights file says of itself.

    Raises:
        InputError: It is none, or damaged.
        DependencyError: It holds a network that only PyTorch runs, and that is not installed.
    """
    with of_its_shape(path):
        return _weights_info(path)


def _weights_info(path: Path) -> FileInfo:
    if not is_exported(path) and is_safetensors(path):
        with open_weights(path) as file:
            encoder = encoder_of(file.metadata() or {})
        if encoder is not None:
            return _encoder_info(path, encoder)
    meta, parameters = _weights_content(path)
    counts = "numbers in kernels" if is_exported(path) else "parameters"
    lines = [
        ("network", f"{meta.network_text}, {parameters:,} {counts}, {_size(path)}"),
        *_exported_lines(meta),
        ("classes", _named(meta.classes)),
        ("sees", _sees(meta.bands, meta.dtype, meta.scale, meta.height)),
        ("mean", _decimals(meta.mean)),
        ("std", _decimals(meta.std)),
        ("resolution", _resolution_text(meta)),
        *([] if meta.window else [("logits", _ALIGNMENTS[meta.logit_alignment])]),
        *([("meant for", meta.purpose)] if meta.purpose else []),
        ("scheme", meta.scheme),
        *training_lines(meta.training),
        *pruning_lines(meta.pruned),
        *score_lines(meta.scores),
        ("licence", meta.licence or "not said"),
    ]
    data = {**meta, "parameters": parameters, "file_size": file_bytes(path)}
    if meta.likeness is not None:  # thousands of numbers
        likeness = {
            "squares": len(meta.likeness["squares"]),
            "threshold": meta.likeness["threshold"],
        }
        data["likeness"] = likeness
        text = (
            "by {squares:,} squares of training patches; warns above a distance of {threshold:.2g}"
        )
        lines.append(("knows scenes", text.format(**likeness)))
    return FileInfo("weights", lines, data)


def _exported_lines(meta: ModelMeta) -> list[tuple[str, str]]:
    """Return what an exported network adds to what its weights said."""
    lines = []
    if meta.window is not None:
        shared = "" if meta.overlap is None else f", which overlap by {meta.overlap} px"
        lines.append(("exported", f"for windows of {meta.window} px{shared}"))
    if meta.quantized is not None:
        lines += quantization_lines(meta.quantized)
    return lines


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

    Of an exported network it is that of the numbers in kernels.

    Raises:
        WeightsError: They can't be read, or their tensors are not those of their network.
        DependencyError: Only PyTorch runs the network, and it is not installed.
    """
    if is_exported(path):
        exported = ExportedGraph(path)
        return exported.meta, exported.parameters
    if not parsed_model(read_meta(path).model).has_graph:
        with requiring("gpu", f"the network {read_meta(path).model}"):
            from hrrsi.networks.weights import load_network

        network, meta = load_network(path)
        return meta, sum(parameter.numel() for parameter in network.parameters())
    graph = NetworkGraph(path)
    graph.onnx(graph.meta.band_count, 64, 64, "uint8")  # raises where tensors don't fit
    return graph.meta, graph.parameters


def dataset_info(folder: Path) -> FileInfo:
    """Return what a tiled dataset says of itself.

    Raises:
        InputError: It is damaged.
    """
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
        shares = shares_text(description.label_names, content.label_pixels)
        lines.append(
            (
                name,
                f"{content.patches:,} patches of {counted(len(content.scenes), 'scene')}, "
                f"{content.ignored_pixels / max(1, total):.1%} ignored: {shares}",
            )
        )
    return FileInfo("tiled dataset", lines, description.model_dump(mode="json"))


def _named(classes: Sequence[str]) -> str:
    return f"{len(classes)}: {', '.join(classes)}"


def _sees(bands: Sequence[int], dtype: str, scale: float, height: bool | str | None) -> str:
    listed = ", ".join(map(str, bands))
    text = f"{'band' if len(bands) == 1 else 'bands'} {listed} of {dtype} scenes, {scale:g} = full"
    if not height:
        return text
    return f"{text}; then heights" + (f" ({height})" if isinstance(height, str) else "")


_ALIGNMENTS = {
    "corners": "the outermost ones on the outermost pixels",
    "centres": "each in the centre of its pixels",
}


def _resolution_text(meta: ModelMeta) -> str:
    """Return the ground resolution of weights, and what range of it they saw."""
    own = "unknown" if meta.resolution is None else f"{length_text(meta.resolution)} a pixel"
    return own if meta.resolutions is None else f"{own}; saw {meta.resolutions_text}"


def _decimals(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4f}" for v in values)


def _size(path: Path) -> str:
    return f"{file_bytes(path) / 1e6:.1f} MB"
