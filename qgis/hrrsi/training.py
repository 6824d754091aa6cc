"""*Tile and train*: ``hrrsi tile`` and ``hrrsi train`` on orthophotos and their labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qgis.core import (
    QgsProcessing,
    QgsProcessingOutputFile,
    QgsProcessingOutputFolder,
    QgsProcessingOutputNumber,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterString,
    QgsProcessingUtils,
)

from .algorithm import HrrsiAlgorithm, advanced, integer
from .commands import Training, trained
from .program import ProgramError

_TILING_SHARE = 10.0  # percent


class TileAndTrain(HrrsiAlgorithm):
    """A network of the user's own classes."""

    INPUT, EPOCHS, FOLDER = "INPUT", "EPOCHS", "OUTPUT"
    FURTHER_TILE, FURTHER_TRAIN = "FURTHER_OPTIONS_TILE", "FURTHER_OPTIONS_TRAIN"
    TRAINED, DATASET, MIOU = "TRAINED_WEIGHTS", "DATASET", "MIOU"

    NAME, TITLE = "tileandtrain", "Tile and train"
    HELP = (
        "Cuts orthophotos and polygons of their classes into a tiled dataset, split into spatial "
        "blocks (70 % train, 15 % validate, 15 % test), and trains a network on it that goes on "
        "from the weights. The folder gets dataset/ and runs/; the weights of the best epoch are "
        "an output, for Map land cover ('Weights of your own').\n\n"
        "What no polygon covers is ignored, unless there is a background class. Training needs "
        "hrrsi[train], and hours without a GPU. A run that was cancelled goes on when it is "
        "started again with the same folder and options."
    )

    def initAlgorithm(self, configuration=None):  # noqa: N802
        """Declare parameters and outputs."""
        self.addParameter(
            QgsProcessingParameterMultipleLayers(
                self.INPUT, "Scenes: orthophotos", QgsProcessing.TypeRaster
            )
        )
        self.add_polygon_labels()
        self.add_weights()
        self.addParameter(integer(self.EPOCHS, "Epochs: passes over the training patches", 1))
        more = [
            integer("SIZE", "Size of a patch: its rows and columns, in pixels", 32, 512),
            QgsProcessingParameterString(
                "SPLIT_BLOCKS",
                "Split into spatial blocks: shares of train, val and test",
                defaultValue="70,15,15",
            ),
            QgsProcessingParameterString(
                "BACKGROUND", "Background: class of what lies outside of polygons", optional=True
            ),
            integer("BATCH", "Batch: patches a step", 1),
            integer("PATIENCE", "Patience: end after so many epochs without a better one", 0),
        ]
        for parameter in more:
            self.addParameter(advanced(parameter))
        self.add_area()
        self.add_further("tile", self.FURTHER_TILE)
        self.add_further("train", self.FURTHER_TRAIN)
        self.add_start_over()
        self.addParameter(
            QgsProcessingParameterFolderDestination(self.FOLDER, "Folder of dataset and run")
        )
        self.addOutput(QgsProcessingOutputFile(self.TRAINED, "Trained weights"))
        self.addOutput(QgsProcessingOutputFolder(self.DATASET, "Tiled dataset"))
        self.addOutput(QgsProcessingOutputNumber(self.MIOU, "Validation mIoU, in percent"))

    def prepare_files(self, parameters, context, feedback):
        """Turn layers into files."""
        layers = self.parameterAsLayerList(parameters, self.INPUT, context)
        if not layers:
            raise ProgramError("scenes: there is no such raster; choose layers or files")
        scenes = [self.raster_file(layer, "scene") for layer in layers]
        self.scenes = tuple(path for path, _ in scenes)
        systems = {crs for _, crs in scenes}
        if len(systems) > 1:
            raise ProgramError(
                "scenes: some hold a CRS and others none, or other ones; save those without with "
                "Export > Save As"
            )
        self.crs = systems.pop()
        self.labels = self.polygons_file(parameters, self.LABELS, context, feedback)
        self.area = self.polygons_file(parameters, self.AOI, context, feedback)
        digest = hashlib.sha256()
        for name in filter(parameters.get, (self.LABELS, self.AOI)):
            source = self.parameterAsSource(parameters, name, context)
            digest.update(f"{name} {source.sourceCrs().toWkt()}".encode())
            for feature in source.getFeatures():
                digest.update(bytes(feature.geometry().asWkb()))
                digest.update(repr([str(value) for value in feature.attributes()]).encode())
        self.labels_state = digest.hexdigest()

    def process(self, parameters, context, feedback):
        """Cut the dataset unless it is there, then train."""
        texts = {
            name: self.parameterAsString(parameters, name, context).strip()
            for name in (
                *(self.ATTRIBUTE, "SPLIT_BLOCKS", "BACKGROUND"),
                *(self.FURTHER_TILE, self.FURTHER_TRAIN),
            )
        }
        self.training = Training(
            scenes=self.scenes,
            labels=self.labels,
            folder=self.parameterAsFileOutput(parameters, self.FOLDER, context),
            labels_state=self.labels_state,
            attribute=texts[self.ATTRIBUTE],
            init=self.weights(parameters, context),
            size=self.optional_integer(parameters, "SIZE", context) or 512,
            split=texts["SPLIT_BLOCKS"],
            background=texts["BACKGROUND"],
            crs=self.crs,
            aoi=self.area,
            epochs=self.optional_integer(parameters, self.EPOCHS, context),
            batch=self.optional_integer(parameters, "BATCH", context),
            patience=self.optional_integer(parameters, "PATIENCE", context),
            further_tile=texts[self.FURTHER_TILE],
            further_train=texts[self.FURTHER_TRAIN],
            anew=self.parameterAsBool(parameters, self.START_OVER, context),
        )
        training = self.training
        train_words = training.train_words()  # wrong words show before the dataset is cut
        Path(training.folder).mkdir(parents=True, exist_ok=True)
        if training.is_cut:
            feedback.pushInfo(f"{training.dataset}: is there already, of these scenes and labels")
        else:
            self.run_hrrsi(training.tile_words(), feedback, share=(0.0, _TILING_SHARE))
            training.note_cut()
        lines = self.run_hrrsi(train_words, feedback, share=(_TILING_SHARE, 100.0))
        weights, miou = trained(lines)
        results = {
            self.FOLDER: training.folder,
            self.TRAINED: weights,
            self.DATASET: str(training.dataset),
        }
        return results if miou is None else {**results, self.MIOU: miou}

    def stopped_line(self, line):
        """Return what is said of a cancelled run."""
        text = super().stopped_line(line)
        if self.training.folder.startswith(QgsProcessingUtils.tempFolder()):
            return f"{text}; but a temporary folder gets a new name each time: name one"
        return f"{text}; run it again with this folder to go on"
