"""Very-high-resolution orthophotos to land-cover maps with networks of under 3 M parameters.

The nouns and verbs are those of the command line. Nothing is imported before it is used: torch and
GDAL take seconds, and much of what is here needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrrsi.networks.weights import load_model
    from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions
    from hrrsi.prediction.predict import predict
    from hrrsi.prediction.segmenter import Segmenter
    from hrrsi.tiling.options import TileOptions
    from hrrsi.tiling.tile import tile

    __version__: str

_HOMES = {
    "EngineOptions": "hrrsi.prediction.options",
    "MapOptions": "hrrsi.prediction.options",
    "OutputOptions": "hrrsi.prediction.options",
    "Segmenter": "hrrsi.prediction.segmenter",
    "load_model": "hrrsi.networks.weights",
    "TileOptions": "hrrsi.tiling.options",
    "predict": "hrrsi.prediction.predict",
    "tile": "hrrsi.tiling.tile",
}
# The extra that brings what a name needs where that is not `gpu`.
_EXTRAS = {"train": "train", "pretrain": "train"}

__all__ = [
    "EngineOptions",
    "MapOptions",
    "OutputOptions",
    "Segmenter",
    "TileOptions",
    "__version__",
    "load_model",
    "predict",
    "tile",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # takes longer than all the rest

        return metadata.version("hrrsi")
    if name not in _HOMES:
        raise AttributeError(f"module 'hrrsi' has no attribute {name!r}")
    from hrrsi.extras import requiring

    with requiring(_EXTRAS.get(name, "gpu"), f"hrrsi.{name}"):
        value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
