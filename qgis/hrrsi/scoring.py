"""*Score against labels*: ``hrrsi eval`` of a map, of a scene's map, or of weights on a dataset."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from qgis.core import (
    QgsProcessingOutputNumber,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingUtils,
)

from .algorithm import HrrsiAlgorithm, advanced, colours_of, names_in_legend
from .commands import (
    MapOptions,
    Scoring,
    label_indices,
    map_classes,
    map_info_words,
    overall_scores,
    scheme_text,
)
from .map_files import MapFiles
from .program import ProgramError

_PROTOCOLS = ["all", "no-clutter", "published", "isprs"]
_NUMBERS = {
    "OVERALL_ACCURACY": "Overall accuracy (OA), in percent",
    "MIOU": "Mean IoU (mIoU), in percent",
    "MF1": "Mean F1 (mF1), in percent",
    "KAPPA": "Kappa",
}


class ScoreAgainstLabels(HrrsiAlgorithm):
    """Scores of a map against labels."""

    MAP, SCENE, DATASET = "MAP", "SCENE", "DATASET"
    LABEL_RASTER, SCHEME, PROTOCOL = "LABEL_RASTER", "SCHEME", "PROTOCOL"
    REPORT, JSON = "REPORT", "JSON"

    NAME, TITLE = "scoreagainstlabels", "Score against labels"
    HELP = (
        "Scores a map against labels, polygons or a raster: precision, recall, F1 and IoU of each "
        "class, OA, mF1, mIoU and kappa with their intervals, in the log and as an HTML report. "
        "Name a class raster; or a scene, which is mapped with the weights first; or the folder "
        "of a tiled dataset, whose test patches are scored with the weights.\n\n"
        "Pixels without a label are not scored. Without a scheme, labels have the classes of the "
        "map: polygons by name in the attribute, rasters by the names in their legend, else by "
        "index. A scheme says otherwise."
    )

    def initAlgorithm(self, configuration=None):  # noqa: N802
        """Declare parameters and outputs."""
        raster = QgsProcessingParameterRasterLayer
        self.addParameter(raster(self.MAP, "Map: a class raster", optional=True))
        self.addParameter(raster(self.SCENE, "Or a scene to map first", optional=True))
        self.addParameter(
            QgsProcessingParameterFile(
                self.DATASET,
                "Or the folder of a tiled dataset, which needs no labels",
                QgsProcessingParameterFile.Folder,
                optional=True,
            )
        )
        self.add_weights()
        self.add_polygon_labels(optional=True)
        self.addParameter(raster(self.LABEL_RASTER, "Or labels: a raster", optional=True))
        self.addParameter(
            QgsProcessingParameterString(
                self.SCHEME,
                "Scheme: dubai, potsdam, vaihingen, or a .yaml file; empty: the map's classes",
                optional=True,
            )
        )
        self.add_area()
        self.addParameter(
            advanced(
                QgsProcessingParameterEnum(
                    self.PROTOCOL,
                    "Protocol: which classes count",
                    _PROTOCOLS,
                    defaultValue="all",
                    usesStaticStrings=True,
                )
            )
        )
        self.add_further("eval")
        self.addParameter(
            QgsProcessingParameterFileDestination(self.REPORT, "Report", "HTML (*.html)")
        )
        self.addParameter(
            QgsProcessingParameterFileDestination(
                self.JSON,
                "All figures as JSON",
                "JSON (*.json)",
                optional=True,
                createByDefault=False,
            )
        )
        for name, description in _NUMBERS.items():
            self.addOutput(QgsProcessingOutputNumber(name, description))

    def prepare_files(self, parameters, context, feedback):
        """Turn layers into files."""

        def file_of(name, what):
            layer = self.parameterAsRasterLayer(parameters, name, context)
            if layer is None and parameters.get(name) not in (None, ""):
                raise ProgramError(f"{parameters[name]}: is no raster; choose another {what}")
            return ("", "") if layer is None else self.raster_file(layer, what)

        self.map, _ = file_of(self.MAP, "map")
        self.scene, self.crs = file_of(self.SCENE, "scene")
        raster, _ = file_of(self.LABEL_RASTER, "label raster")
        self.dataset = self.parameterAsFile(parameters, self.DATASET, context)
        polygons = self.polygons_file(parameters, self.LABELS, context, feedback)
        self.labels = polygons or raster
        self.area = self.polygons_file(parameters, self.AOI, context, feedback)
        self.weights_name = self.weights(parameters, context)
        self._check(polygons, raster)
        self.label_format, self.label_names = "polygons", {}
        if raster:
            layer = self.parameterAsRasterLayer(parameters, self.LABEL_RASTER, context)
            self.label_format = "indices" if layer.bandCount() == 1 else "colours"
            self.label_names = names_in_legend(layer)

    def _check(self, polygons, raster):
        """Raise where what is given does not go together."""
        if polygons and raster:
            raise ProgramError("labels: are polygons or a raster; leave one of them out")
        if self.dataset and (self.map or self.scene or self.labels):
            raise ProgramError(
                "dataset: holds its own scenes and labels; leave out map, scene and labels"
            )
        if not (self.map or self.scene or self.dataset):
            raise ProgramError("what to score: name a map, a scene, or a dataset")
        if not (self.labels or self.dataset):
            raise ProgramError("labels: none are named; choose polygons or a raster")

    def process(self, parameters, context, feedback):
        """Map the scene where there is no map, then score."""
        report = self.parameterAsFileOutput(parameters, self.REPORT, context)
        given_json = self.parameterAsFileOutput(parameters, self.JSON, context)
        figures = given_json or QgsProcessingUtils.generateTempFilename("scores.json")
        for path in filter(None, (report, figures)):
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        start = 0.0
        scored, scheme = self.map, self.parameterAsString(parameters, self.SCHEME, context).strip()
        if self.scene and not self.map:
            scored, start = self._mapped(feedback), 70.0
        if not (self.dataset or scheme):
            scheme = self._scheme_of(scored, feedback)
        polygons = self.label_format == "polygons" and self.labels
        scoring = Scoring(
            pred=scored,
            label=self.labels,
            scheme=scheme,
            attribute=self.parameterAsString(parameters, self.ATTRIBUTE, context)
            if polygons
            else "",
            aoi=self.area,
            image=self.scene,
            dataset=self.dataset,
            weights=self.weights_name,
            protocol=self.parameterAsEnumString(parameters, self.PROTOCOL, context) or "all",
            report=report,
            json=figures,
            further=self.parameterAsString(parameters, self.FURTHER, context),
        )
        self.run_hrrsi(scoring.words(), feedback, share=(start, 100.0))
        results = {self.REPORT: report} if report else {}
        if given_json:
            results[self.JSON] = given_json
        return {**results, **overall_scores(Path(figures).read_text(encoding="utf-8"))}

    def stopped_line(self, line):
        """Return what is said of a cancelled run."""
        if self.scene and not self.map:  # whose map is a temporary file of another name each time
            return (
                "interrupted; nothing of the scene's map is kept: where that takes long, make it "
                "with Map land cover, and score that"
            )
        return super().stopped_line(line)

    def _mapped(self, feedback):
        """Return the scene's map, in single precision as all scores are."""
        path = QgsProcessingUtils.generateTempFilename("map_classes.tif")
        mapping = MapOptions(self.scene, self.weights_name, self.crs, further="--precision 32")
        files = MapFiles(classes=path)
        files.prepare()
        self.run_hrrsi([*mapping.words(), *files.words()], feedback, share=(0.0, 70.0))
        files.move_into_place()
        return path

    def _scheme_of(self, path, feedback):
        """Return a file with a scheme of a map's own classes."""
        classes = map_classes(path, self.run_hrrsi(map_info_words(path), feedback, silent=True))
        colours = colours_of(path)
        shown = [colours.get(index, (index, index, 0)) for index in range(len(classes))]
        names = self.label_names
        if self.label_format == "indices" and not names:  # a map of hrrsi's own says them too
            info = self.run_hrrsi(map_info_words(self.labels), feedback, silent=True)
            with suppress(ProgramError):
                names = {name: index for index, name in enumerate(map_classes(self.labels, info))}
        indices = label_indices(classes, names)
        file = Path(QgsProcessingUtils.generateTempFilename("scheme.yaml"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(scheme_text(classes, shown, self.label_format, indices), encoding="utf-8")
        return str(file)
