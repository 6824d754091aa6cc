"""*Map land cover* and *Polygons*: ``hrrsi predict`` on a raster layer."""

from __future__ import annotations

import os

from qgis.core import (
    QgsProcessing,
    QgsProcessingOutputNumber,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
    QgsProcessingUtils,
    QgsVectorLayer,
)

from .algorithm import HrrsiAlgorithm, ResultGroup
from .commands import option_words
from .map_files import MapFiles
from .program import ProgramError


class _Mapping(HrrsiAlgorithm):
    """What both have in common: a scene, and how it is mapped."""

    INPUT = "INPUT"

    def add_scene(self):
        """Add the scene and the weights."""
        self.addParameter(QgsProcessingParameterRasterLayer(self.INPUT, "Scene: an orthophoto"))
        self.add_weights()

    def add_options(self):
        """Add what is seldom changed."""
        self.add_mapping_options()
        self.add_further("predict")
        self.add_start_over()

    def prepare_files(self, parameters, context, feedback):
        """Turn layers into files."""
        layer = self.parameterAsRasterLayer(parameters, self.INPUT, context)
        scene, crs = self.raster_file(layer, "scene")
        self.scene_name = layer.name()
        self.options = self.mapping(parameters, context, feedback, scene, crs)

    def map_scene(self, files, words, parameters, context, feedback):
        """Run the command, and move its files to their places."""
        self.files = files
        start_over = self.parameterAsBool(parameters, self.START_OVER, context)
        inputs = (*self.options.inputs, files.finished)
        files.prepare(inputs, start_over=start_over)
        try:
            self.run_hrrsi([*words, *files.words()], feedback, places=files.moves)
        except ProgramError:
            if files.finished or not files.is_begun:
                files.discard()  # there is nothing in it to go on with
            raise
        files.move_into_place()

    def stopped_line(self, line):
        """Return what is said of a cancelled run."""
        text = super().stopped_line(line)
        if str(self.files.folder).startswith(QgsProcessingUtils.tempFolder()):
            return f"{text}; but a temporary output gets a new name each time: name a file"
        return text


class MapLandCover(_Mapping):
    """The class raster of a scene, and what is made of it."""

    OUTPUT, CONFIDENCE, POLYGONS, PICTURE = "OUTPUT", "CONFIDENCE", "POLYGONS", "PICTURE"

    NAME, TITLE = "maplandcover", "Map land cover"
    HELP = (
        "Maps the land cover of a scene: a class raster on the scene's grid, with class colours "
        "and names; on request the probability of each pixel's class (confidence), polygons, and "
        "a map sheet (picture).\n\n"
        "Scenes may be larger than memory. Pixels without data have none in the map either. A run "
        "that was cancelled goes on when it is started again with the same output file."
    )

    def initAlgorithm(self, configuration=None):  # noqa: N802
        """Declare parameters and outputs."""
        self.add_scene()
        self.add_options()
        self.addParameter(QgsProcessingParameterRasterDestination(self.OUTPUT, "Class raster"))
        more = {"optional": True, "createByDefault": False}
        self.addParameter(
            QgsProcessingParameterRasterDestination(self.CONFIDENCE, "Confidence", **more)
        )
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                self.POLYGONS, "Polygons", QgsProcessing.TypeVectorPolygon, **more
            )
        )
        self.addParameter(
            QgsProcessingParameterFileDestination(
                self.PICTURE, "Picture (map sheet)", "PNG (*.png);;PDF (*.pdf)", **more
            )
        )

    def process(self, parameters, context, feedback):
        """Map the scene."""
        files = MapFiles(
            classes=self.parameterAsOutputLayer(parameters, self.OUTPUT, context),
            confidence=self.parameterAsOutputLayer(parameters, self.CONFIDENCE, context),
            polygons=self.parameterAsOutputLayer(parameters, self.POLYGONS, context),
            picture=self.parameterAsFileOutput(parameters, self.PICTURE, context),
        )
        self.map_scene(files, self.options.words(), parameters, context, feedback)
        group = ResultGroup(f"Land cover of {self.scene_name}", files.confidence)
        group.claim(context, (files.classes, files.confidence, files.polygons))
        results = {
            self.OUTPUT: files.classes,
            self.CONFIDENCE: files.confidence,
            self.POLYGONS: files.polygons,
            self.PICTURE: files.picture,
        }
        return {name: path for name, path in results.items() if path}


class Polygons(_Mapping):
    """The polygons of a scene's classes."""

    MAP, CLASSES, SIMPLIFY, OUTPUT, COUNT = "MAP", "CLASSES", "SIMPLIFY", "OUTPUT", "COUNT"

    NAME, TITLE = "polygons", "Polygons"
    HELP = (
        "Makes polygons of a scene's land cover, each one connected piece of a class, with the "
        "attributes class, class_index, pixels and area_m2.\n\n"
        "Where Map land cover has mapped the scene already, name its class raster: polygons are "
        "made of it, without mapping the scene again. Weights and options have to be the same."
    )

    def initAlgorithm(self, configuration=None):  # noqa: N802
        """Declare parameters and outputs."""
        self.add_scene()
        self.addParameter(
            QgsProcessingParameterRasterLayer(
                self.MAP, "Class raster of this scene, where it is mapped already", optional=True
            )
        )
        self.addParameter(
            QgsProcessingParameterString(
                self.CLASSES, "Classes: write these alone, e.g. Building,Road", optional=True
            )
        )
        self.addParameter(
            QgsProcessingParameterNumber(
                self.SIMPLIFY,
                "Simplify: leave out steps along pixels, up to so many metres",
                QgsProcessingParameterNumber.Double,
                optional=True,
                minValue=0,
            )
        )
        self.add_options()
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                self.OUTPUT, "Polygons", QgsProcessing.TypeVectorPolygon
            )
        )
        self.addOutput(QgsProcessingOutputNumber(self.COUNT, "Number of polygons"))

    def prepare_files(self, parameters, context, feedback):
        """Turn layers into files."""
        super().prepare_files(parameters, context, feedback)
        self.map = ""
        layer = self.parameterAsRasterLayer(parameters, self.MAP, context)
        if layer is not None:
            self.map, _ = self.raster_file(layer, "class raster")

    def process(self, parameters, context, feedback):
        """Map the scene, or take the map that is there, and make polygons of it."""
        output = self.parameterAsOutputLayer(parameters, self.OUTPUT, context)
        simplify = self.optional_number(parameters, self.SIMPLIFY, context)
        options = {
            "--classes": self.parameterAsString(parameters, self.CLASSES, context).strip(),
            "--simplify": simplify or None,
        }
        words = [*self.options.words(), *option_words(options)]
        files = MapFiles(polygons=output, finished=self.map)
        try:
            self.map_scene(files, words, parameters, context, feedback)
        except ProgramError as error:
            is_other = any(words in str(error) for words in ("made otherwise", "was changed since"))
            if self.map and is_other:
                raise ProgramError(
                    f"{self.map}: was made otherwise or of another scene, or changed since; give "
                    "what it was made with, or leave the class raster out"
                ) from error
            raise
        ResultGroup(f"Polygons of {self.scene_name}").claim(context, [output])
        layer = QgsVectorLayer(output, os.path.basename(output), "ogr")
        return {self.OUTPUT: output, self.COUNT: layer.featureCount()}
