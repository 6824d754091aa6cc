"""Puts ONNX graphs together from named tensors, with BatchNorms folded into convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]

PRECISE = "precise."
OPSET = 17  # the newest that the runtimes inside GIS plugins read
IR_VERSION = 8
_OPEN = "windows"  # a size that stays open
_BATCH_NORM_EPSILON = 1e-5  # PyTorch's own


class Map(NamedTuple):
    """A feature map in a graph: (N, channels, height, width).

    Attributes:
        name: What the graph calls it.
        channels: Number of channels.
        height: Rows.
        width: Columns.
    """

    name: str
    channels: int
    height: int
    width: int


class _Tensors(Mapping[str, Floats]):
    """Tensors that know which of them were taken."""

    def __init__(self, tensors: Mapping[str, Floats]) -> None:
        self._tensors = tensors
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Floats:
        tensor = self._tensors[key]
        self.taken.add(key)
        return tensor

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class Graph:
    """An ONNX graph that grows node by node.

    Args:
        tensors: Weights by their keys in the networks' state dicts, float32.
        windows: How many windows it takes at once; None: any number.
    """

    def __init__(self, tensors: Mapping[str, Floats], windows: int | None = None) -> None:
        self.tensors = _Tensors(tensors)
        self._windows = windows
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._prefix = ""
        self._names: set[str] = set()
        self._epsilon = _BATCH_NORM_EPSILON

    @contextmanager
    def precise(self) -> Iterator[None]:
        """Mark nodes that the block adds: they stay in single precision whatever the rest does.

        Their names begin with `PRECISE`.
        """
        self._prefix = PRECISE
        yield
        self._prefix = ""

    @contextmanager
    def norm_epsilon(self, epsilon: float) -> Iterator[None]:
        """Fold BatchNorms that the block names as those that add `epsilon` to the variance."""
        self._epsilon = epsilon
        yield
        self._epsilon = _BATCH_NORM_EPSILON

    def windows(self, name: str, dtype: str, bands: int, height: int, width: int) -> str:
        """Declare an input of windows, (windows, bands, height, width)."""
        return self.input(name, dtype, (self._windows or _OPEN, bands, height, width))

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declare an input; text in a shape is a size that stays open."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, x: Map, name: str) -> None:
        """Declare a map as an output under that name."""
        self._nodes.append(helper.make_node("Identity", [x.name], [name]))
        shape = (self._windows or _OPEN, x.channels, x.height, x.width)
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def constant(self, values: npt.NDArray[np.generic]) -> str:
        """Return the name of an array in the graph."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, operator: str, *inputs: str, key: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output.

        Args:
            operator: What it does.
            inputs: What it sees.
            key: Whose tensors it holds, after which it is named; one of several is numbered.
            attributes: How it does that.
        """
        name = f"{self._prefix}{key or operator + str(len(self._nodes))}"
        if name in self._names:
            name = f"{name}.{len(self._nodes)}"
        self._names.add(name)
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def convolution(
        self,
        x: Map,
        key: str,
        *,
        norm: str | None = None,
        stride: int = 1,
        same: bool = False,
        relu: bool = False,
    ) -> Map:
        """Add a convolution whose padding keeps the size at stride 1.

        Args:
            x: What it sees.
            key: Its tensors are ``KEY.weight`` and, if there is one, ``KEY.bias``. A kernel of
                one input channel is depthwise where `x` has more.
            norm: The BatchNorm that follows, folded into kernel and bias.
            stride: Pixels from one output to the next.
            same: Whether the padding is TensorFlow's "same": at stride 2 the last output's kernel,
                not the first's, looks furthest beyond the border.
            relu: Whether a ReLU follows.

        Raises:
            KeyError: There is no such tensor.
            ValueError: It has another shape.
        """
        kernel, bias = self._kernel_and_bias(key, norm)
        if kernel.ndim != 4 or x.channels % kernel.shape[1]:
            raise ValueError(f"{key}.weight has shape {kernel.shape} for {x.channels} channels")
        return self.convolution_of(x, kernel, bias, stride=stride, same=same, relu=relu, key=key)

    def convolution_in_parts(
        self,
        x: Map,
        key: str,
        *,
        parts: int,
        norm: str | None = None,
    ) -> tuple[Map, ...]:
        """Add a convolution, and return what it gives in parts of equally many channels.

        Each is computed by itself. Where one of them fits into a processor's cache and all of them
        don't, what follows part by part is faster.

        Args:
            x: What it sees.
            key: Its tensors, as for `convolution`.
            parts: How many there are.
            norm: The BatchNorm that follows, folded into kernel and bias.

        Raises:
            KeyError: There is no such tensor.
            ValueError: It has another shape, or its channels can't be split like that.
        """
        kernel, bias = self._kernel_and_bias(key, norm)
        if kernel.ndim != 4 or x.channels != kernel.shape[1]:
            raise ValueError(f"{key}.weight has shape {kernel.shape} for {x.channels} channels")
        return tuple(
            self.convolution_of(x, *part, key=key)
            for part in zip(np.split(kernel, parts), np.split(bias, parts), strict=True)
        )

    def convolution_of_parts(
        self,
        parts: Sequence[Map],
        key: str,
        *,
        norm: str | None = None,
        relu: bool = False,
        plus: Map | None = None,
    ) -> Map:
        """Add a convolution of maps behind each other, without copying them into one.

        It is the sum of a convolution of each, which runtimes add up in place.

        Args:
            parts: What it sees, in the order of its kernel's inputs.
            key: Its tensors, as for `convolution`.
            norm: The BatchNorm that follows, folded into kernel and bias.
            relu: Whether a ReLU follows.
            plus: A map to add, before the ReLU.

        Raises:
            KeyError: There is no such tensor.
            ValueError: It has another shape.
        """
        kernel, bias = self._kernel_and_bias(key, norm)
        kernels = _split(kernel, parts, 1, f"{key}.weight")
        result = self.convolution_of(parts[0], kernels[0], bias, key=key)
        if plus is not None:
            result = self.add(result, plus)
        for part, part_kernel in zip(parts[1:], kernels[1:], strict=True):
            more = self.convolution_of(part, part_kernel, np.zeros_like(bias), key=key)
            result = self.add(more, result)
        return self.relu(result) if relu else result

    def depthwise_of_parts(
        self,
        parts: Sequence[Map],
        key: str,
        *,
        norm: str,
        stride: int,
        same: bool = False,
    ) -> tuple[Map, ...]:
        """Add a depthwise convolution of maps behind each other, and return its parts likewise.

        Args:
            parts: What it sees, in the order of its kernel's channels.
            key: Its tensors, as for `convolution`.
            norm: The BatchNorm that follows, folded into kernel and bias.
            stride: Pixels from one output to the next.
            same: As for `convolution`.

        Raises:
            KeyError: There is no such tensor.
            ValueError: It has another shape.
        """
        kernel, bias = self._kernel_and_bias(key, norm)
        kernels = _split(kernel, parts, 0, f"{key}.weight")
        biases = _split(bias, parts, 0, f"{key}.bias")
        return tuple(
            self.convolution_of(*part, stride=stride, same=same, key=key)
            for part in zip(parts, kernels, biases, strict=True)
        )

    def convolution_of(
        self,
        x: Map,
        kernel: Floats,
        bias: Floats,
        *,
        stride: int = 1,
        same: bool = False,
        relu: bool = False,
        key: str = "",
    ) -> Map:
        """Add a convolution with a given (outputs, inputs, h, w) kernel and (outputs,) bias."""
        rows, columns = kernel.shape[2:]
        before = [rows // 2, columns // 2]
        after = before
        if same:
            totals = [
                max(0, (-(-length // stride) - 1) * stride + taps - length)
                for length, taps in ((x.height, rows), (x.width, columns))
            ]
            before = [total // 2 for total in totals]
            after = [total - first for total, first in zip(totals, before, strict=True)]
        y = self.node(
            "Conv",
            x.name,
            self.constant(kernel),
            self.constant(bias),
            kernel_shape=[rows, columns],
            strides=[stride, stride],
            pads=[*before, *after],
            group=x.channels // kernel.shape[1],
            key=key,
        )
        result = Map(y, len(kernel), -(-x.height // stride), -(-x.width // stride))
        return self.relu(result) if relu else result

    def softmax(self, x: Map) -> Map:
        """Add a softmax over channels, by its definition.

        ONNX Runtime's own takes the channels last, so it turns the map around twice: of five
        classes at 512 px that took a quarter of the network's time.
        """
        largest = self.node("ReduceMax", x.name, axes=[1], keepdims=1)
        shifted = self.node("Sub", x.name, largest)
        powers = self.node("Exp", shifted)
        axes = self.constant(np.array([1], dtype=np.int64))
        return x._replace(name=self.node("Div", powers, self.node("ReduceSum", powers, axes)))

    def relu(self, x: Map) -> Map:
        """Add a ReLU."""
        return x._replace(name=self.node("Relu", x.name))

    def relu6(self, x: Map) -> Map:
        """Add a ReLU that ends at 6."""
        bounds = (self.constant(np.array(bound, dtype=np.float32)) for bound in (0, 6))
        return x._replace(name=self.node("Clip", x.name, *bounds))

    def add(self, x: Map, y: Map) -> Map:
        """Add two maps, which broadcast."""
        return x._replace(name=self.node("Add", x.name, y.name))

    def negated(self, x: Map) -> Map:
        """Return a map times -1."""
        minus = self.constant(np.full((1, 1, 1, 1), -1, dtype=np.float32))
        return x._replace(name=self.node("Mul", x.name, minus))

    def subtract(self, x: Map, y: Map) -> Map:
        """Subtract a map from another."""
        return x._replace(name=self.node("Sub", x.name, y.name))

    def multiply(self, x: Map, y: Map) -> Map:
        """Multiply two maps, which broadcast; the larger comes first."""
        return x._replace(name=self.node("Mul", x.name, y.name))

    def concatenate(self, *maps: Map) -> Map:
        """Put maps of one size behind each other."""
        name = self.node("Concat", *(x.name for x in maps), axis=1)
        return maps[0]._replace(name=name, channels=sum(x.channels for x in maps))

    def split(self, x: Map, parts: Sequence[Map]) -> list[Map]:
        """Split a map into as many channels each as other maps have."""
        sizes = [part.channels for part in parts]
        places = self.constant(np.array(sizes, dtype=np.int64))
        names = [f"{self._prefix}Split{len(self._nodes)}_{i}" for i in range(len(sizes))]
        self._nodes.append(
            helper.make_node("Split", [x.name, places], names, name=names[0], axis=1)
        )
        return [
            x._replace(name=name, channels=size) for name, size in zip(names, sizes, strict=True)
        ]

    def resize(self, x: Map, height: int, width: int, *, align_corners: bool) -> Map:
        """Resize a map bilinearly, as torch's ``interpolate`` does."""
        if self._windows is None:  # sizes of batch and channels stay as they are
            leading = self.node("Shape", x.name, end=2)
            ends = self.constant(np.array([height, width], dtype=np.int64))
            sizes = self.node("Concat", leading, ends, axis=0)
        else:
            whole = [self._windows, x.channels, height, width]
            sizes = self.constant(np.array(whole, dtype=np.int64))
        name = self.node(
            "Resize",
            x.name,
            "",
            "",
            sizes,
            mode="linear",
            coordinate_transformation_mode="align_corners" if align_corners else "half_pixel",
        )
        return Map(name, x.channels, height, width)

    def with_edges_repeated(self, x: Map, multiple: int) -> Map:
        """Repeat a map's last row and column until its height and width are multiples."""
        height, width = (-(-length // multiple) * multiple for length in (x.height, x.width))
        if (height, width) == (x.height, x.width):
            return x
        pads = np.array([0] * 6 + [height - x.height, width - x.width], dtype=np.int64)
        return Map(
            self.node("Pad", x.name, self.constant(pads), mode="edge"), x.channels, height, width
        )

    def cut(self, x: Map, height: int, width: int) -> Map:
        """Cut off what a map has beyond a height and a width."""
        if (height, width) == (x.height, x.width):
            return x
        ends = (np.array(values, dtype=np.int64) for values in ((0, 0), (height, width), (2, 3)))
        name = self.node("Slice", x.name, *(self.constant(values) for values in ends))
        return Map(name, x.channels, height, width)

    def left_over(self) -> list[str]:
        """Return the keys of tensors that no node holds."""
        return [key for key in self.tensors if key not in self.tensors.taken]

    def model(self) -> onnx.ModelProto:
        """Return the graph as a model."""
        graph = helper.make_graph(
            self._nodes, "segmentation", self._inputs, self._outputs, self._constants
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="hrrsi",
        )

    def _kernel_and_bias(self, key: str, norm: str | None) -> tuple[Floats, Floats]:
        kernel = self.tensors[f"{key}.weight"]
        bias = self.tensors.get(f"{key}.bias", np.zeros(len(kernel), dtype=np.float32))
        return (kernel, bias) if norm is None else self._folded(kernel, bias, norm)

    def _folded(self, kernel: Floats, bias: Floats, norm: str) -> tuple[Floats, Floats]:
        """Return kernel and bias of a convolution with the BatchNorm after it."""
        mean, variance, gain, shift = (
            self.tensors[f"{norm}.{part}"].astype(np.float64)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        factor = gain / np.sqrt(variance + self._epsilon)
        folded_bias = (bias - mean) * factor + shift
        folded = kernel * factor[:, None, None, None]
        return folded.astype(np.float32), folded_bias.astype(np.float32)


def _split(values: Floats, parts: Sequence[Map], axis: int, name: str) -> list[Floats]:
    """Split a tensor along an axis into as many channels each as maps have."""
    ends = np.cumsum([part.channels for part in parts])
    if values.shape[axis] != ends[-1]:
        raise ValueError(f"{name} has shape {values.shape} for {ends[-1]} channels")
    return np.split(values, ends[:-1], axis=axis)
