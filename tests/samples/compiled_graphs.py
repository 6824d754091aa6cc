"""Graphs that are compiled once for all tests of a process.

Compiling takes longer than what most tests map with it. An engine that asks for the same graph with
the same settings again gets what was compiled for the engine before it.
"""

import hashlib
import sys
from collections import OrderedDict
from typing import Any

_ENGINE = "hrrsi.prediction.engines.graph_engines"
_MOST = 16  # each holds the weights, and the maps of a window for each thread
_compiled: OrderedDict[tuple[Any, ...], Any] = OrderedDict()


def share_compiled_graphs() -> None:
    """Let OpenVINO's engines share compiled graphs, once something has loaded them."""
    engine = getattr(sys.modules.get(_ENGINE), "OpenVinoEngine", None)
    if engine is None or hasattr(engine, "compiles_alone"):
        return
    engine.compiles_alone = engine._compile

    def compiled(self: Any, *key: Any) -> Any:
        settings = (self.precision, self.side_by_side, self._threads)
        whole = (_weights_of(self._graph), *settings, *key)
        if whole not in _compiled:
            _compiled[whole] = self.compiles_alone(*key)
            while len(_compiled) > _MOST:
                _compiled.popitem(last=False)
        _compiled.move_to_end(whole)
        return _compiled[whole]

    engine._compile = compiled


def _weights_of(graph: Any) -> tuple[Any, ...]:
    """Return what tells the graphs of two weights files apart, quicker than the graphs do."""
    digest = hashlib.blake2b()
    if isinstance(graph, sys.modules["hrrsi.graphs.exported"].ExportedGraph):
        for file in sorted(graph._path.parent.glob(f"{graph._path.stem}.*")):  # its .bin, too
            digest.update(file.suffix.encode())
            digest.update(file.read_bytes())
        # an ONNX file and OpenVINO's can have one stem
        return ("exported", graph._path.suffix, digest.digest())
    tensors = graph._tensors
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].shape}".encode())
        digest.update(tensors[key])
    return graph.meta.model, len(graph.meta.classes), digest.digest()
