"""Very-high-resolution orthophotos to land-cover maps with networks of under 3 M parameters."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrrsi.prediction.predict import predict
    from hrrsi.prediction.segmenter import Segmenter
    from hrrsi.weights import load_model

    __version__: str

__all__ = ["Segmenter", "__version__", "load_model", "predict"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and most of what the command line does never needs it
    if name == "load_model":
        from hrrsi.weights import load_model

        return load_model
    if name == "predict":
        from hrrsi.prediction.predict import predict

        return predict
    if name == "Segmenter":
        from hrrsi.prediction.segmenter import Segmenter

        return Segmenter
    if name == "__version__":
        from importlib import metadata

        return metadata.version("hrrsi")
    raise AttributeError(f"module 'hrrsi' has no attribute {name!r}")
