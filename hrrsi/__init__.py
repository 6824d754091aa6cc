"""Very-high-resolution orthophotos to land-cover maps with networks of under 3 M parameters.

The nouns and verbs are those of the command line. Nothing is imported before it is used: torch and
GDAL take seconds, and much of what is here needs neither. What an extra of the installation brings
is asked for by the call that needs it (`DependencyError`), so that everything can be named without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrrsi.cluster.connection import ClusterOptions
    from hrrsi.cluster.predict import predict
    from hrrsi.deployment.export import ExportedNetwork, export
    from hrrsi.deployment.options import ExportOptions, PruneOptions, QuantizationOptions
    from hrrsi.deployment.pruning import PrunedNetwork, prune
    from hrrsi.deployment.quantization import QuantizedNetwork, quantize
    from hrrsi.errors import (
        ClusterError,
        DependencyError,
        DeviceError,
        HrrsiError,
        InputError,
        MissingInputError,
        OptionError,
        OutputError,
        OutputExistsError,
        RunError,
        WeightsError,
    )
    from hrrsi.evaluation.evaluate import compare, evaluate
    from hrrsi.evaluation.evaluation import EvaluationWarning
    from hrrsi.evaluation.options import EvaluationOptions, MapReading
    from hrrsi.evaluation.result import Comparison, EvaluationResult
    from hrrsi.file_info import FileInfo, info
    from hrrsi.networks.weights_reading import load_model
    from hrrsi.prediction.mapped_scene import MappedScene
    from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions
    from hrrsi.prediction.predict import ScenesFailedError
    from hrrsi.prediction.scene_checks import SceneWarning
    from hrrsi.prediction.segmenter import Segmenter
    from hrrsi.pretraining.options import PretrainOptions, PretrainRecipe
    from hrrsi.pretraining.run import PretrainedRun, pretrain
    from hrrsi.profiling.figures import Profile, ProfileOptions
    from hrrsi.profiling.profile import profile
    from hrrsi.tiling.options import TileOptions
    from hrrsi.tiling.result import TilingResult
    from hrrsi.tiling.tile import tile
    from hrrsi.training.options import Recipe, TrainOptions, recipe_named
    from hrrsi.training.run import TrainedRun, train, train_all

    __version__: str

_HOMES = {
    "ClusterError": "hrrsi.errors",
    "ClusterOptions": "hrrsi.cluster.connection",
    "Comparison": "hrrsi.evaluation.result",
    "DependencyError": "hrrsi.errors",
    "DeviceError": "hrrsi.errors",
    "EngineOptions": "hrrsi.prediction.options",
    "EvaluationOptions": "hrrsi.evaluation.options",
    "EvaluationResult": "hrrsi.evaluation.result",
    "EvaluationWarning": "hrrsi.evaluation.evaluation",
    "ExportOptions": "hrrsi.deployment.options",
    "ExportedNetwork": "hrrsi.deployment.export",
    "FileInfo": "hrrsi.file_info",
    "HrrsiError": "hrrsi.errors",
    "InputError": "hrrsi.errors",
    "MapOptions": "hrrsi.prediction.options",
    "MapReading": "hrrsi.evaluation.options",
    "MappedScene": "hrrsi.prediction.mapped_scene",
    "MissingInputError": "hrrsi.errors",
    "OptionError": "hrrsi.errors",
    "OutputError": "hrrsi.errors",
    "OutputExistsError": "hrrsi.errors",
    "OutputOptions": "hrrsi.prediction.options",
    "PretrainOptions": "hrrsi.pretraining.options",
    "PretrainRecipe": "hrrsi.pretraining.options",
    "PretrainedRun": "hrrsi.pretraining.run",
    "Profile": "hrrsi.profiling.figures",
    "ProfileOptions": "hrrsi.profiling.figures",
    "PruneOptions": "hrrsi.deployment.options",
    "PrunedNetwork": "hrrsi.deployment.pruning",
    "QuantizationOptions": "hrrsi.deployment.options",
    "QuantizedNetwork": "hrrsi.deployment.quantization",
    "Recipe": "hrrsi.training.options",
    "RunError": "hrrsi.errors",
    "SceneWarning": "hrrsi.prediction.scene_checks",
    "ScenesFailedError": "hrrsi.prediction.predict",
    "Segmenter": "hrrsi.prediction.segmenter",
    "TileOptions": "hrrsi.tiling.options",
    "TilingResult": "hrrsi.tiling.result",
    "TrainOptions": "hrrsi.training.options",
    "TrainedRun": "hrrsi.training.run",
    "WeightsError": "hrrsi.errors",
    "compare": "hrrsi.evaluation.evaluate",
    "evaluate": "hrrsi.evaluation.evaluate",
    "export": "hrrsi.deployment.export",
    "info": "hrrsi.file_info",
    "load_model": "hrrsi.networks.weights_reading",
    "predict": "hrrsi.cluster.predict",
    "pretrain": "hrrsi.pretraining.run",
    "profile": "hrrsi.profiling.profile",
    "prune": "hrrsi.deployment.pruning",
    "quantize": "hrrsi.deployment.quantization",
    "recipe_named": "hrrsi.training.options",
    "tile": "hrrsi.tiling.tile",
    "train": "hrrsi.training.run",
    "train_all": "hrrsi.training.run",
}

__all__ = [
    "ClusterError",
    "ClusterOptions",
    "Comparison",
    "DependencyError",
    "DeviceError",
    "EngineOptions",
    "EvaluationOptions",
    "EvaluationResult",
    "EvaluationWarning",
    "ExportOptions",
    "ExportedNetwork",
    "FileInfo",
    "HrrsiError",
    "InputError",
    "MapOptions",
    "MapReading",
    "MappedScene",
    "MissingInputError",
    "OptionError",
    "OutputError",
    "OutputExistsError",
    "OutputOptions",
    "PretrainOptions",
    "PretrainRecipe",
    "PretrainedRun",
    "Profile",
    "ProfileOptions",
    "PruneOptions",
    "PrunedNetwork",
    "QuantizationOptions",
    "QuantizedNetwork",
    "Recipe",
    "RunError",
    "SceneWarning",
    "ScenesFailedError",
    "Segmenter",
    "TileOptions",
    "TilingResult",
    "TrainOptions",
    "TrainedRun",
    "WeightsError",
    "__version__",
    "compare",
    "evaluate",
    "export",
    "info",
    "load_model",
    "predict",
    "pretrain",
    "profile",
    "prune",
    "quantize",
    "recipe_named",
    "tile",
    "train",
    "train_all",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # takes longer than all the rest

        return metadata.version("hrrsi")
    if name not in _HOMES:
        raise AttributeError(f"module 'hrrsi' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
