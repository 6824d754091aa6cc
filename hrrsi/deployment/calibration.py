"""Ranges of a network's maps, by which they are rounded to int8, by ONNX Runtime's quantizer."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import onnx

from hrrsi.graphs.graph import OPSET, Floats
from hrrsi.networks.exported_file import INPUT_SCALE
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.scenes.resampling import nearest_step
from hrrsi.scenes.window_source import ArrayWindows
from hrrsi.scenes.windows import Window
from hrrsi.tiling.dataset import DatasetDescription, Patch, read_image

_Item = TypeVar("_Item")


class CalibrationMethod(NamedTuple):
    """How the range of a map is taken from its values.

    Attributes:
        name: What it is called.
        kind: The name of ONNX Runtime's method.
        percentile: Share of values within the range, in percent, where that is the method.
    """

    name: str
    kind: str
    percentile: float | None = None


METHODS = (
    CalibrationMethod("extremes", "MinMax"),
    CalibrationMethod("99.99 % of values", "Percentile", 99.99),
    CalibrationMethod("least entropy", "Entropy"),  # Migacz 2017, "8-bit Inference with TensorRT"
)


class Calibration:
    """A float network with the ranges of its maps.

    Args:
        model: The network; its one input is (1, bands, window, window) float32.
        windows: (bands, window, window) float32 each, what it sees.
        folder: For files that nobody needs later.
    """

    def __init__(self, model: onnx.ModelProto, windows: Sequence[Floats], folder: Path) -> None:
        self._path = folder / "calibrated.onnx"
        onnx.save(model, self._path)
        self._input = model.graph.input[0].name
        self._windows = windows
        self._folder = folder

    def rounded(
        self,
        method: CalibrationMethod,
        float_nodes: Sequence[str],
        *,
        keep_activations: bool = False,
    ) -> onnx.ModelProto:
        """Return the network in int8.

        Args:
            method: How ranges are taken; the first time for a method takes a while.
            float_nodes: Names of nodes that stay in float.
            keep_activations: Whether activations stay that ranges of int8 make superfluous.
        """
        from onnxruntime.quantization import (
            CalibrationMethod as Kind,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        out = self._folder / "rounded.onnx"
        extra: dict[str, float] = {"CalibStridedMinMax": 1}  # windows at once, whose maps are held
        if keep_activations:
            extra["QDQKeepRemovableActivations"] = True
        if method.percentile is not None:
            extra["CalibPercentile"] = method.percentile
        with _quiet():
            quantize_static(
                self._path,
                out,
                _reader(self._input, self._windows),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,  # 8 bits overflow on processors without VNNI
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(float_nodes),
                calibrate_method=getattr(Kind, method.kind),
                calibration_cache_path=self._folder / f"{method.name}.json",
                extra_options=extra,
            )
        model = onnx.load(out)
        del model.opset_import[:]  # it names ONNX Runtime's own operators, and uses none
        model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
        return model


def with_float_nodes(
    rounded: onnx.ModelProto, model: onnx.ModelProto, names: Sequence[str]
) -> onnx.ModelProto:
    """Return a network in int8 with some nodes in float, to try what that does.

    It is what `Calibration.rounded` returns, but made in no time, and what is left over stays in.

    Args:
        rounded: The network in int8, with all activations.
        model: The float network that it was made of.
        names: The nodes.
    """
    tried = deepcopy(rounded)
    sources = {node.output[0]: node for node in tried.graph.node}
    originals = {node.name: node for node in model.graph.node if node.name in names}
    kernels = {tensor.name: tensor for tensor in model.graph.initializer}
    held: set[str] = set()
    for node in tried.graph.node:
        if node.name not in originals:
            continue
        for place, name in enumerate(originals[node.name].input):
            step = sources.get(node.input[place])
            if step is None or step.op_type != "DequantizeLinear":
                continue
            before = sources.get(step.input[0])  # of a map; kernels are stored in int8
            if before is not None:
                node.input[place] = before.input[0]
            elif name in kernels:
                whole = f"{name}_whole"
                if whole not in held:
                    tried.graph.initializer.append(kernels[name])
                    tried.graph.initializer[-1].name = whole
                    held.add(whole)
                node.input[place] = whole
    return tried


def _reader(name: str, windows: Sequence[Floats]) -> Any:
    """Return what feeds a calibration of ONNX Runtime's."""
    from onnxruntime.quantization import CalibrationDataReader

    class Windows(CalibrationDataReader):  # type: ignore[misc]  # without hints
        def __init__(self) -> None:
            self._range = iter(range(len(windows)))

        def __len__(self) -> int:
            return len(windows)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._range = iter(range(start_index, end_index))

        def get_next(self) -> dict[str, Floats] | None:
            index = next(self._range, None)
            return None if index is None else {name: windows[index][None]}

    return Windows()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ONNX Runtime's quantizer prints and logs to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def session_of(model: onnx.ModelProto) -> Any:
    """Return a session of ONNX Runtime for a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others work too
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def evenly_chosen(items: Sequence[_Item], most: int) -> list[_Item]:
    """Return up to `most` of some items, spread evenly over all of them."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def network_pixels(
    patch: Patch, description: DatasetDescription, meta: ModelMeta
) -> npt.NDArray[Any]:
    """Return the pixels of a patch at the ground resolution that weights read them at, as in maps.

    Args:
        patch: The patch.
        description: What its dataset says of it.
        meta: What the weights say of themselves.

    Returns:
        (bands, rows, columns), values as the dataset holds them.
    """
    step = nearest_step(description.metres_per_pixel, meta.resolutions)
    image = read_image(patch, description)
    source = ArrayWindows(image, has_height=meta.height, steps=(step, step))
    return source.read(Window(0, 0, *source.network_grid))[0]


def network_windows(
    patches: Sequence[Patch], description: DatasetDescription, meta: ModelMeta, window: int
) -> list[Floats]:
    """Return what an exported network sees of patches: the middle of each, or all and its mirror.

    Args:
        patches: The patches.
        description: What their dataset says of them.
        meta: What the weights say of themselves.
        window: Rows and columns of a window.

    Returns:
        (bands, window, window) float32 each, values divided by `INPUT_SCALE`.
    """
    # values as training had them: full brightness is that of the weights
    factor = np.full((meta.band_count, 1, 1), meta.scale / description.scale, dtype=np.float32)
    if meta.height:
        factor[-1] = 1
    windows = []
    for patch in patches:
        pixels = network_pixels(patch, description, meta).astype(np.float32)
        inner = max(0, (pixels.shape[1] - window) // 2)
        pixels = pixels[:, inner : inner + window, inner : inner + window]
        margin = window - pixels.shape[1]
        while margin > 0:  # a mirror image is at most as large as what it shows
            width = min(margin, pixels.shape[1])
            pixels = np.pad(pixels, ((0, 0), (0, width), (0, width)), mode="symmetric")
            margin -= width
        windows.append(np.ascontiguousarray(pixels * factor / np.float32(INPUT_SCALE)))
    return windows
