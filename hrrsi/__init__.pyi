"""The public API: what each name is, and where it lives; `hrrsi` loads names by this file."""

from .cluster.connection import ClusterOptions as ClusterOptions
from .deployment.export import ExportedNetwork as ExportedNetwork, export as export
from .deployment.options import (
    ExportOptions as ExportOptions,
    PruneOptions as PruneOptions,
    QuantizationOptions as QuantizationOptions,
)
from .deployment.pruning import PrunedNetwork as PrunedNetwork, prune as prune
from .deployment.quantization import QuantizedNetwork as QuantizedNetwork, quantize as quantize
from .errors import (
    ClusterError as ClusterError,
    DependencyError as DependencyError,
    DeviceError as DeviceError,
    HrrsiError as HrrsiError,
    InputError as InputError,
    MissingInputError as MissingInputError,
    OptionError as OptionError,
    OutputError as OutputError,
    OutputExistsError as OutputExistsError,
    RunError as RunError,
    WeightsError as WeightsError,
)
from .evaluation.evaluate import compare as compare
from .evaluation.evaluation import EvaluationWarning as EvaluationWarning
from .evaluation.options import EvaluationOptions as EvaluationOptions, MapReading as MapReading
from .evaluation.result import Comparison as Comparison, EvaluationResult as EvaluationResult
from .file_info import FileInfo as FileInfo, info as info
from .networks.weights_reading import load_model as load_model
from .prediction.mapped_scene import MappedScene as MappedScene
from .prediction.options import (
    EngineOptions as EngineOptions,
    MapOptions as MapOptions,
    OutputOptions as OutputOptions,
)
from .prediction.predict import MapObserver as MapObserver, ScenesFailedError as ScenesFailedError
from .prediction.scene_remarks import SceneWarning as SceneWarning
from .prediction.segmenter import Segmenter as Segmenter
from .pretraining.options import (
    PretrainOptions as PretrainOptions,
    PretrainRecipe as PretrainRecipe,
)
from .pretraining.run import PretrainedRun as PretrainedRun, pretrain as pretrain
from .profiling.figures import Profile as Profile, ProfileOptions as ProfileOptions
from .profiling.profile import profile as profile
from .report import ReportOutputs as ReportOutputs
from .report.scene_views import SceneViewCollector as SceneViewCollector
from .report.text import outcome_text as outcome_text
from .tiling.options import TileOptions as TileOptions
from .tiling.result import TilingResult as TilingResult
from .tiling.tile import tile as tile
from .training.options import (
    Recipe as Recipe,
    TrainOptions as TrainOptions,
    recipe_named as recipe_named,
)
from .training.run import TrainedRun as TrainedRun, train as train, train_all as train_all
from .verbs import evaluate as evaluate, predict as predict
from .viewer import ViewOptions as ViewOptions
from .viewer.server import Viewer as Viewer, view as view

__version__: str
