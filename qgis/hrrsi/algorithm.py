"""What the algorithms share: layers as files, a run of hrrsi with feedback, results in a group."""

from __future__ import annotations

import os
import re
import shlex
from collections import deque
from configparser import ConfigParser
from pathlib import Path
from typing import ClassVar

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsColorRampShader,
    QgsMapLayer,
    QgsPalettedRasterRenderer,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFile,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
    QgsProcessingUtils,
    QgsProject,
    QgsRasterLayer,
    QgsRasterShader,
    QgsSingleBandPseudoColorRenderer,
)
from qgis.PyQt.QtGui import QColor, QIcon

from .commands import MapOptions
from .program import Listener, ProgramError, StoppedError, fitting_program, in_qgis, run

SETTING = "HRRSI_EXECUTABLE"
ICON = str(Path(__file__).with_name("icon.png"))
_METADATA = Path(__file__).with_name("metadata.txt")
_POLYGON_FORMATS = ["gpkg", "shp", "geojson", "json", "fgb", "gml", "kml"]
_OF_RUN = "hrrsi/run"  # says of a group in a project that it is one run's
# Confidences, from those of a coin's side up.
_CONFIDENCE_COLOURS = ((0.2, "#a50026"), (0.5, "#fdae61"), (0.75, "#ffffbf"), (1.0, "#1a9850"))


def advanced(parameter):
    """Return a parameter that the dialog shows when it is unfolded."""
    parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
    return parameter


def integer(name, description, least, default=None):
    """Return an optional parameter of whole numbers."""
    kind = QgsProcessingParameterNumber.Integer
    return QgsProcessingParameterNumber(
        name, description, kind, defaultValue=default, optional=True, minValue=least
    )


def switch(name, description):
    """Return an advanced parameter that is on or off."""
    return advanced(QgsProcessingParameterBoolean(name, description, defaultValue=False))


class ResultGroup:
    """One group of the layer tree for the layers of one run.

    Args:
        name: The group's name.
        confidence: The file of confidences, which gets colours, or nothing.
    """

    def __init__(self, name, confidence=""):
        self.name = name
        self.confidence = confidence
        self.node = None

    def claim(self, context, paths):
        """Have the layers of some files in the group, where they are to be loaded."""
        loaded = context.layersToLoadOnCompletion()
        if "" in loaded:  # in batch, QGIS would load outputs that are left empty
            del loaded[""]
            context.setLayersToLoadOnCompletion(loaded)
        for path in filter(None, paths):
            if context.willLoadLayerOnCompletion(path):
                details = context.layerToLoadOnCompletionDetails(path)
                by_qgis = hasattr(details, "groupName")  # QGIS 3.32 and later
                if by_qgis:
                    details.groupName = self.name
                details.setPostProcessor(_LoadedLayer(self, moves=not by_qgis))

    def take(self, layer, project):
        """Move a loaded layer into the group: polygons at its top, confidences last."""
        node = project.layerTreeRoot().findLayer(layer.id())
        if node is None or node.parent() is None:
            return
        parent = above = node.parent()
        while above.customProperty(_OF_RUN) and above.parent() is not None:
            above = above.parent()  # QGIS loads into the group of the layer that is current
        if self.node is None:
            self.node = above.insertGroup(0, self.name)
            self.node.setCustomProperty(_OF_RUN, True)
        nodes = self.node.children()
        if layer.type() != QgsMapLayer.RasterLayer:
            position = 0
        elif layer.source() == self.confidence:
            position = len(nodes)
        else:
            position = sum(not _is_raster(each) for each in nodes)
        self.node.insertChildNode(position, node.clone())
        parent.removeChildNode(node)


class _LoadedLayer(QgsProcessingLayerPostProcessorInterface):
    """What happens to one layer once it is loaded: QGIS ends with it, so each has its own."""

    _kept: ClassVar = deque(maxlen=200)  # which Python would end before QGIS asks them

    def __init__(self, group, moves):
        super().__init__()
        self._group = group
        self._moves = moves
        self._kept.append(self)

    def postProcessLayer(self, layer, context, feedback):  # noqa: N802
        """Show confidences in colours, and move the layer into its group."""
        confidence = self._group.confidence
        project = context.project() or QgsProject.instance()
        is_confidence = bool(confidence) and layer.source() == confidence
        if is_confidence:
            show_confidence(layer)
        else:
            layer.loadDefaultStyle()  # classes' names and colours, which hrrsi writes
        if self._moves:
            self._group.take(layer, project)
        node = project.layerTreeRoot().findLayer(layer.id())
        if node is not None and _is_raster(node):
            node.setExpanded(not is_confidence)  # the legend of the classes


def _is_raster(node):
    return node.layer() is not None and node.layer().type() == QgsMapLayer.RasterLayer


def show_confidence(layer):
    """Show a raster of confidences from red, for doubtful, to green."""
    items = [
        QgsColorRampShader.ColorRampItem(value, QColor(colour), f"{value:.0%}")
        for value, colour in _CONFIDENCE_COLOURS
    ]
    ramp = QgsColorRampShader(items[0].value, items[-1].value)
    ramp.setColorRampItemList(items)
    shader = QgsRasterShader()
    shader.setRasterShaderFunction(ramp)
    layer.setRenderer(QgsSingleBandPseudoColorRenderer(layer.dataProvider(), 1, shader))


class HrrsiAlgorithm(QgsProcessingAlgorithm):
    """An algorithm that runs hrrsi: subclasses say parameters, files and commands."""

    WEIGHTS, WEIGHTS_FILE, AOI, FURTHER = "WEIGHTS", "WEIGHTS_FILE", "AOI", "FURTHER_OPTIONS"
    START_OVER, LABELS, ATTRIBUTE = "START_OVER", "LABELS", "ATTRIBUTE"

    NAME = TITLE = HELP = ""
    TAGS = ("land cover", "segmentation", "deep learning", "classification", "orthophoto")

    def __init__(self):
        super().__init__()
        self.executable = ""
        self.warnings = []  # of layers, said once the run begins

    def createInstance(self):  # noqa: N802
        """Return another one."""
        return type(self)()

    def name(self):
        """Return the name in scripts and models."""
        return self.NAME

    def displayName(self):  # noqa: N802
        """Return the name in the toolbox."""
        return self.TITLE

    def icon(self):
        """Return the icon in the toolbox."""
        return QIcon(ICON)

    def shortHelpString(self):  # noqa: N802
        """Return the help beside the parameters."""
        return self.HELP

    def helpUrl(self):  # noqa: N802
        """Return where the plugin's page is."""
        metadata = ConfigParser(interpolation=None)
        metadata.read(_METADATA, encoding="utf-8")
        return metadata["general"]["homepage"]

    def tags(self):
        """Return words that the toolbox finds it by."""
        return list(self.TAGS)

    def add_weights(self):
        """Add the choice of weights."""
        self.addParameter(
            QgsProcessingParameterEnum(
                self.WEIGHTS,
                "Weights",
                ["default", "light"],
                defaultValue="default",
                usesStaticStrings=True,
            )
        )
        self.addParameter(
            QgsProcessingParameterFile(
                self.WEIGHTS_FILE,
                "Weights of your own, instead",
                optional=True,
                fileFilter="Weights (*.safetensors *.pth *.onnx *.xml);;All files (*)",
            )
        )

    def add_mapping_options(self):
        """Add what is seldom changed of how scenes are mapped."""
        more = [
            QgsProcessingParameterNumber(
                "MIN_AREA",
                "Minimum area: merge areas below so many m² (pixels without CRS)",
                QgsProcessingParameterNumber.Double,
                optional=True,
                minValue=0,
            ),
            QgsProcessingParameterString(
                "RESAMPLE",
                "Resample: ground resolution to read the scene at: auto, off, or metres",
                defaultValue="auto",
            ),
            integer("WINDOW", "Window: its rows and columns, in pixels", 32),
            integer("OVERLAP", "Overlap of windows, in pixels", 0),
            integer("THREADS", "Threads", 1),
        ]
        for parameter in more:
            self.addParameter(advanced(parameter))
        self.add_area()
        self.addParameter(switch("CROP", "Crop the map to the area of interest"))

    def add_polygon_labels(self, *, optional=False):
        """Add labels that are polygons, and which of their attributes holds the class."""
        polygons = [QgsProcessing.TypeVectorPolygon]
        self.addParameter(
            QgsProcessingParameterFeatureSource(
                self.LABELS, "Labels: polygons", polygons, optional=optional
            )
        )
        self.addParameter(
            QgsProcessingParameterField(
                self.ATTRIBUTE,
                "Attribute that holds the class",
                parentLayerParameterName=self.LABELS,
                optional=True,
            )
        )

    def add_area(self):
        """Add the area of interest."""
        self.addParameter(
            advanced(
                QgsProcessingParameterFeatureSource(
                    self.AOI,
                    "Area of interest: outside of these polygons nothing counts",
                    [QgsProcessing.TypeVectorPolygon],
                    optional=True,
                )
            )
        )

    def add_further(self, command, name=FURTHER):
        """Add further options of a command, and of all the start over."""
        text = f"Further options of hrrsi {command}, as typed in a shell"
        parameter = QgsProcessingParameterString(name, text, optional=True)
        self.addParameter(advanced(parameter))

    def add_start_over(self):
        """Add the choice not to go on with what an earlier run has left."""
        text = "Start over, instead of going on with what a cancelled run has left"
        self.addParameter(switch(self.START_OVER, text))

    def mapping(self, parameters, context, feedback, scene, crs):
        """Return how a scene is mapped. In the main thread."""
        return MapOptions(
            scene,
            weights=self.weights(parameters, context),
            crs=crs,
            resample=self.parameterAsString(parameters, "RESAMPLE", context).strip() or "auto",
            window=self.optional_integer(parameters, "WINDOW", context),
            overlap=self.optional_integer(parameters, "OVERLAP", context),
            threads=self.optional_integer(parameters, "THREADS", context),
            min_area=self.optional_number(parameters, "MIN_AREA", context),
            aoi=self.polygons_file(parameters, self.AOI, context, feedback),
            crop=self.parameterAsBool(parameters, "CROP", context),
            further=self.parameterAsString(parameters, self.FURTHER, context),
        )

    def weights(self, parameters, context):
        """Return the weights: the file where one is named."""
        file = self.parameterAsFile(parameters, self.WEIGHTS_FILE, context)
        return file or self.parameterAsEnumString(parameters, self.WEIGHTS, context) or "default"

    def optional_integer(self, parameters, name, context):
        """Return a whole number, or None where none is given."""
        number = self.optional_number(parameters, name, context)
        return None if number is None else int(number)

    def optional_number(self, parameters, name, context):
        """Return a number, or None where none is given."""
        value = parameters.get(name)
        return None if value in (None, "") else self.parameterAsDouble(parameters, name, context)

    def prepareAlgorithm(self, parameters, context, feedback):  # noqa: N802
        """Find the program and turn layers into files; in the main thread, as QGIS does it."""
        try:
            self.executable = fitting_program(ProcessingConfig.getSetting(SETTING) or "")
            self.prepare_files(parameters, context, feedback)
        except ProgramError as error:
            raise QgsProcessingException(str(error)) from error
        return True

    def processAlgorithm(self, parameters, context, feedback):  # noqa: N802
        """Run the commands; what hrrsi says of an error is the error."""
        for warning in self.warnings:
            feedback.pushWarning(warning)
        try:
            return self.process(parameters, context, feedback)
        except StoppedError as stopped:
            raise QgsProcessingException(self.stopped_line(str(stopped))) from stopped
        except ProgramError as error:
            raise QgsProcessingException(in_qgis(str(error))) from error

    def prepare_files(self, parameters, context, feedback):
        """Turn layers into files."""
        raise NotImplementedError

    def process(self, parameters, context, feedback):
        """Run the commands, and return the results."""
        raise NotImplementedError

    def stopped_line(self, line):
        """Return what is said of a cancelled run."""
        return in_qgis(line)

    def run_hrrsi(self, words, feedback, *, silent=False, share=(0.0, 100.0), places=()):
        """Run a command, and return what it prints.

        Args:
            words: The command without the program.
            feedback: QGIS' feedback.
            silent: Whether what it prints is only returned.
            share: From where to where the progress bar goes meanwhile, in percent.
            places: Files as hrrsi makes them, and where they are moved afterwards: what is said.

        Raises:
            ProgramError: It has failed.
        """
        first, last = share

        def placed(line):
            for draft, target in places:
                line = line.replace(draft, target)
            return line

        def say(line):
            line = placed(line)
            if line.startswith(("|", "+-")):  # a table, where the log would join spaces
                line = line.replace(" ", "\u00a0")
            feedback.pushConsoleInfo(line)

        def show(percent, text):
            feedback.setProgress(first + (last - first) * percent / 100)
            if text:
                feedback.setProgressText(text)

        listener = Listener(
            on_command=lambda command: feedback.pushCommandInfo(shlex.join(command)),
            on_line=say,
            on_warning=lambda line: feedback.pushWarning(placed(line)),
            on_progress=show,
            is_cancelled=feedback.isCanceled,
        )
        try:
            return run([self.executable, *words], listener, silent=silent)
        except ProgramError as error:
            raise type(error)(placed(str(error))) from error

    def raster_file(self, layer, what):
        """Return a raster layer's file, and its CRS where the file holds none. Main thread.

        Args:
            layer: The layer.
            what: What the parameter calls it.

        Raises:
            ProgramError: It is no file.
        """
        if layer is None:
            raise ProgramError(f"{what}: there is no such raster; choose a layer or a file")
        source = layer.source()
        if layer.providerType() != "gdal" or source.startswith("<"):
            kind = {"wms": "a map service"}.get(layer.providerType(), layer.providerType())
            raise ProgramError(
                f"{layer.name()}: is {kind}, not a raster file; save the part that you need with "
                "Export > Save As"
            )
        source = source.split("|option:")[0]
        if os.path.exists(source):
            source = os.path.abspath(source)
        own, shown = layer.dataProvider().crs(), layer.crs()
        if own.isValid() and shown.isValid() and own != shown:
            self.warnings.append(
                f"{layer.name()}: its file says {own.authid() or 'another CRS'}, its layer "
                f"{shown.authid() or 'another one'}; the file counts"
            )
        crs = "" if own.isValid() or not shown.isValid() else shown.authid() or shown.toWkt()
        return source, crs

    def polygons_file(self, parameters, name, context, feedback):
        """Return the file of polygons, ``FILE|layername=NAME`` where it holds several layers.

        What is in no file as it is shown is saved to a temporary one: memory layers, databases,
        filters, selections, edits that are not saved, another CRS than the file's. Main thread.
        """
        value = parameters.get(name)
        if value in (None, ""):
            return ""
        layer = self.parameterAsVectorLayer(parameters, name, context)
        if layer is None and isinstance(value, QgsProcessingFeatureSourceDefinition):
            source, _ = value.source.valueAsString(context.expressionContext())
            layer = QgsProcessingUtils.mapLayerFromString(source, context)
        as_shown = layer is None or (
            not layer.isModified() and layer.crs() == layer.dataProvider().crs()
        )
        formats = _POLYGON_FORMATS if as_shown else []
        path, inner = self.parameterAsCompatibleSourceLayerPathAndLayerName(
            parameters,
            name,
            context,
            formats,
            "gpkg",
            feedback,  # without it, 3.22 crashes
        )
        if not path:
            raise ProgramError(f"{value}: is no layer of polygons; choose another one")
        if layer is not None and not _is_source(path, layer):
            path, inner = self._under_its_name(path, layer), ""
        return f"{path}|layername={inner}" if inner else path

    @staticmethod
    def _under_its_name(path, layer):
        """Give a temporary file a name that stays the same, and the layer's style beside it."""
        stem = re.sub(r"[^\w-]+", "_", layer.name()).strip("_") or "polygons"
        named = QgsProcessingUtils.generateTempFilename(f"{stem[:60]}.gpkg")
        os.makedirs(os.path.dirname(named), exist_ok=True)
        os.replace(path, named)
        layer.saveNamedStyle(os.path.splitext(named)[0] + ".qml")
        return named


def _is_source(path, layer):
    shown = layer.source().split("|")[0]
    return os.path.exists(shown) and os.path.realpath(shown) == os.path.realpath(path)


def colours_of(path):
    """Return the colours of a class raster by index."""
    layer = QgsRasterLayer(path, "map")  # which its provider ends with
    table = layer.dataProvider().colorTable(1) if layer.isValid() else []
    shown = ((int(item.value), item.color) for item in table)
    return {value: (c.red(), c.green(), c.blue()) for value, c in shown}


def names_in_legend(layer):
    """Return the values of a raster layer's classes by name, where its legend has names."""
    renderer = layer.renderer()
    if not isinstance(renderer, QgsPalettedRasterRenderer):
        return {}
    classes = ((shown.label.strip(), shown.value) for shown in renderer.classes())
    return {name: int(value) for name, value in classes if name not in ("", f"{value:g}")}
