"""Graphs of exported networks, from a scene's pixels to logits, as engines run them."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hrrsi.errors import DeviceError, OptionError, WeightsError, one_line
from hrrsi.graphs.graph import PRECISE, Floats
from hrrsi.graphs.segmentation import NetworkGraph
from hrrsi.interruption import signal_stack_kept
from hrrsi.networks.architecture import LogitGrid
from hrrsi.networks.exported_file import (
    exported_file,
    is_exported,
    read_onnx,
)
from hrrsi.networks.model_meta import ModelMeta

# below it, probabilities are 0 in single precision
_LEAST_PROBABILITY = 1e-30
_PRODUCTS = (
    *("Convolution", "GroupConvolution", "MatMul"),
    *("ConvolutionBackpropData", "GroupConvolutionBackpropData"),
)
_NAMES = ("pixels", "gain", "offset")


class InferenceGraph(Protocol):
    """A network as engines run it: from pixels, gain and offset to logits.

    Attributes:
        meta: What the weights say of themselves.
        logit_grid: Where the logits of a window lie on its pixels.
    """

    meta: ModelMeta
    logit_grid: LogitGrid

    @property
    def is_quantized(self) -> bool:
        """Whether its numbers are rounded to integers, as `hrrsi quantize` does."""
        ...

    def onnx(self, bands: int, height: int, width: int, dtype: str) -> bytes:
        """Return it as an ONNX model, as `hrrsi.graphs.segmentation.logits_graph` describes it."""
        ...

    def openvino(self, core: Any, bands: int, height: int, width: int, dtype: str) -> Any:
        """Return it as a model of an OpenVINO core."""
        ...


def inference_graph(weights: Path) -> InferenceGraph:
    """Return the graph of weights: of a network, or of an exported one.

    Raises:
        WeightsError: They can't be read, or their network is one that only PyTorch runs.
    """
    return ExportedGraph(weights) if is_exported(weights) else NetworkGraph(weights)


class ExportedGraph:
    """An exported network.

    Args:
        path: An ONNX file, or OpenVINO's ``.xml``.

    Attributes:
        meta: What it says of itself.
        logit_grid: That of an output which has the size of its window.

    Raises:
        WeightsError: As `hrrsi.networks.exported_file.exported_file`.
    """

    logit_grid = LogitGrid(1)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = exported_file(path)
        self.meta = self._file.meta
        self._is_onnx = path.suffix.lower() == ".onnx"
        self._logarithm = self._file.is_own or _gives_probabilities(path, self.meta)
        if self._file.is_binary and not self._logarithm:
            raise WeightsError(
                "gives one map that is no probability",
                where=path,
                fix="export it with a sigmoid, or with a map for each class",
            )

    @property
    def parameters(self) -> int:
        """Numbers in the kernels of its convolutions and matrix products."""
        return self._costs[0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its convolutions and matrix products for a window."""
        return self._costs[1]

    @property
    def is_quantized(self) -> bool:
        """Whether its numbers are rounded to integers."""
        return any(step.get_type_name() == "FakeQuantize" for step in self._model().get_ops())

    def _model(self) -> Any:
        """Return it as OpenVINO reads it."""
        import openvino as ov

        with signal_stack_kept():
            return ov.Core().read_model(self._path)

    @cached_property
    def _costs(self) -> tuple[int, int]:
        parameters = macs = 0
        model = self._model()
        model.reshape([1, self.meta.band_count, self.meta.window, self.meta.window])
        for step in model.get_ordered_ops():
            kind = step.get_type_name()
            if kind not in _PRODUCTS:
                continue
            inputs, kernel = step.input(0).get_shape(), step.input(1).get_shape()
            taps = kernel[2:] if kind.startswith("Group") else kernel[1:]
            # a transposed convolution uses each of its taps for each input
            users = inputs if kind.endswith("BackpropData") else step.output(0).get_shape()
            parameters += math.prod(kernel)
            macs += math.prod(users) * (inputs[-1] if kind == "MatMul" else math.prod(taps))
        return parameters, macs

    def onnx(self, bands: int, height: int, width: int, dtype: str) -> bytes:
        """Return it as an ONNX model, as `InferenceGraph.onnx`.

        Raises:
            DeviceError: It is in OpenVINO's own format.
            OptionError: It takes windows of another size.
        """
        if not self._is_onnx:
            raise DeviceError(
                f"only OpenVINO runs {self._path.name}",
                fix="give `engine=openvino`, or export the network as ONNX",
            )
        self._require_size(bands, height, width)
        model = read_onnx(self._path)
        self._wrap(model, (1, bands, height, width), dtype)
        serialised: bytes = model.SerializeToString()
        return serialised

    def openvino(self, core: Any, bands: int, height: int, width: int, dtype: str) -> Any:
        """Return it as a model of an OpenVINO core, as `InferenceGraph.openvino`.

        Raises:
            OptionError: It takes windows of another size.
        """
        if self._is_onnx:
            return core.read_model(self.onnx(bands, height, width, dtype))
        self._require_size(bands, height, width)
        return self._wrapped(core.read_model(self._path), (1, bands, height, width), dtype)

    def _require_size(self, bands: int, height: int, width: int) -> None:
        expected = (self.meta.band_count, self.meta.window, self.meta.window)
        if (bands, height, width) != expected:
            raise OptionError(
                f"{self._path.name} takes windows of {' x '.join(map(str, expected))}, not of "
                f"{bands} x {height} x {width}",
                fix="leave `window` out, or export the network again",
            )

    def _wrap(self, model: ModelProto, shape: tuple[int, ...], dtype: str) -> None:
        """Put the steps before and after a network around it."""
        file, graph = self._file, model.graph
        pixels, gain, offset = (f"hrrsi_{name}" for name in _NAMES)
        values = f"{pixels}_values"
        names = iter(f"{PRECISE}hrrsi_{number}" for number in range(10))

        def node(operator: str, *inputs: str, output: str, **attributes: Any) -> str:
            step = helper.make_node(operator, inputs, [output], name=next(names), **attributes)
            steps.append(step)
            return output

        def constant(values: float | Floats, name: str) -> str:
            array = np.asarray(values, dtype=np.float32)
            graph.initializer.append(numpy_helper.from_array(array, name))
            return name

        before: list[NodeProto] = []
        after: list[NodeProto] = []
        steps = before
        node("Cast", "pixels", output=values, to=TensorProto.FLOAT)
        node("Mul", values, "gain", output=f"{gain}_product")
        node("Add", f"{gain}_product", "offset", output=f"{offset}_sum")
        node("Mul", f"{offset}_sum", constant(file.gain, gain), output=f"{gain}_own")
        node("Add", f"{gain}_own", constant(file.offset, offset), output=file.input_name)
        steps = after
        last = file.output_name
        if file.is_binary:
            single = np.array([1, 1, *shape[2:]], dtype=np.int64)
            graph.initializer.append(numpy_helper.from_array(single, "hrrsi_sizes"))
            second = node("Reshape", last, "hrrsi_sizes", output="hrrsi_second")
            first = node("Sub", constant(1, "hrrsi_whole"), second, output="hrrsi_first")
            last = node("Concat", first, second, output="hrrsi_both", axis=1)
        if self._logarithm:
            least = constant(_LEAST_PROBABILITY, "hrrsi_least")
            node("Max", last, least, output="hrrsi_probability")
            last = node("Log", "hrrsi_probability", output="hrrsi_logits")
        nodes = [*before, *graph.node, *after]
        del graph.node[:], graph.input[:], graph.output[:]
        graph.node.extend(nodes)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        norm = (1, shape[1], 1, 1)
        for name, own, sizes in zip(
            _NAMES, (kind, TensorProto.FLOAT, TensorProto.FLOAT), (shape, norm, norm), strict=True
        ):
            graph.input.append(helper.make_tensor_value_info(name, own, sizes))
        maps = (1, len(self.meta.classes), *shape[2:])
        graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, maps))

    def _wrapped(self, model: Any, shape: tuple[int, ...], dtype: str) -> Any:
        """Return a network of OpenVINO's with the steps before and after it."""
        import openvino as ov
        from openvino import opset13 as steps

        model.reshape(list(shape))
        norm = [1, shape[1], 1, 1]
        pixels, gain, offset = (
            steps.parameter(sizes, np.dtype(kind), name=name)
            for sizes, kind, name in zip(
                (list(shape), norm, norm), (dtype, "float32", "float32"), _NAMES, strict=True
            )
        )
        for step, name in zip((pixels, gain, offset), _NAMES, strict=True):
            step.output(0).get_tensor().set_names({name})
        values = steps.add(steps.multiply(steps.convert(pixels, "f32"), gain), offset)
        own = steps.add(steps.multiply(values, self._file.gain), self._file.offset)
        (parameter,) = model.get_parameters()
        (result,) = model.get_results()
        parameter.output(0).replace(own.output(0))
        last = result.input_value(0)
        if self._file.is_binary:
            sizes = np.array([1, 1, *shape[2:]], dtype=np.int64)
            second = steps.reshape(last, sizes, special_zero=False)
            first = steps.subtract(np.float32(1), second)
            last = steps.concat([first, second], axis=1).output(0)
        if self._logarithm:
            least = np.float32(_LEAST_PROBABILITY)
            last = steps.log(steps.maximum(last, least)).output(0)
        return ov.Model([steps.result(last)], [pixels, gain, offset], "exported")


def _gives_probabilities(path: Path, meta: ModelMeta) -> bool:
    """Return whether a network of others gives probabilities rather than logits: it is run once.

    Raises:
        WeightsError: It can't be run.
    """
    import openvino as ov

    assert meta.window is not None
    noise = np.random.default_rng(0).random((1, meta.band_count, meta.window, meta.window))
    try:
        with signal_stack_kept():
            core = ov.Core()
            model = core.read_model(path)
            model.reshape(list(noise.shape))
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            values = compiled(noise.astype(np.float32))[0]
    except RuntimeError as error:
        words = one_line(error)
        raise WeightsError(
            f"can't be run ({words[-120:]})", where=path, fix="export the network in opset 17"
        ) from error
    return bool(values.min() >= 0 and values.max() <= 1)
