"""A weights file as the inference graph that runtimes read, for any size of window."""

from __future__ import annotations

import re
from pathlib import Path

from hrrsi.errors import WeightsError
from hrrsi.graphs.segmentation import logits_graph
from hrrsi.networks.names import parsed_model
from hrrsi.networks.weights_reading import read_weights

# what BatchNorms count and do not learn
_NO_PARAMETER = re.compile(r"\.(running_mean|running_var|num_batches_tracked)$")


class NetworkGraph:
    """The network of a weights file.

    Args:
        weights: A weights file or a published checkpoint.

    Attributes:
        meta: What the weights say of themselves.
        logit_stride: Pixels of a window that one of its logits stands for along an axis.

    Raises:
        WeightsError: It can't be read, or its network is one that only PyTorch runs.
    """

    logit_stride = 4

    def __init__(self, weights: Path) -> None:
        self._path = weights
        self.meta, self._tensors = read_weights(weights)
        if not parsed_model(self.meta.model).has_graph:
            raise WeightsError(
                f"holds the model {self.meta.model!r}, which only PyTorch runs",
                where=weights,
                fix="give `engine=torch`, or none",
            )

    @property
    def parameters(self) -> int:
        """Number of the network's parameters, those of heads that a graph leaves out included."""
        return sum(
            tensor.size for key, tensor in self._tensors.items() if not _NO_PARAMETER.search(key)
        )

    def onnx(self, bands: int, height: int, width: int, dtype: str) -> bytes:
        """Return the graph, as `hrrsi.graphs.segmentation.logits_graph` describes it.

        Raises:
            WeightsError: The tensors are not those of the network that the file names.
        """
        try:
            model = logits_graph(
                self.meta.model,
                self._tensors,
                len(self.meta.classes),
                bands,
                height,
                width,
                dtype,
            )
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"its tensors are not those of the network that it names ({error})",
                where=self._path,
                fix="use a file that `hrrsi train` wrote, or a published .pth checkpoint",
            ) from error
        serialised: bytes = model.SerializeToString()
        return serialised
