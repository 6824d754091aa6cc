"""Very-high-resolution orthophotos to land-cover maps with networks of under 3 M parameters."""

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrrsi.prediction.predict import predict
    from hrrsi.weights import load_model

__all__ = ["__version__", "load_model", "predict"]

__version__ = metadata.version("hrrsi")


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and most of what the command line does never needs it
    if name == "load_model":
        from hrrsi.weights import load_model

        return load_model
    if name == "predict":
        from hrrsi.prediction.predict import predict

        return predict
    raise AttributeError(f"module 'hrrsi' has no attribute {name!r}")
