"""The plugin, its Processing provider, and its one setting: where the executable is."""

from __future__ import annotations

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsApplication, QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithm import ICON, SETTING
from .mapping import MapLandCover, Polygons
from .scoring import ScoreAgainstLabels
from .training import TileAndTrain


class HrrsiProvider(QgsProcessingProvider):
    """The algorithms."""

    def id(self):
        """Return what the names of algorithms begin with."""
        return "hrrsi"

    def name(self):
        """Return the name in the toolbox."""
        return "hrrsi"

    def longName(self):  # noqa: N802
        """Return the name in lists of providers."""
        return "hrrsi: land-cover maps"

    def icon(self):
        """Return the icon."""
        return QIcon(ICON)

    def load(self):
        """Add the setting, then the algorithms."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(
                self.name(),
                SETTING,
                "hrrsi executable (empty: found on PATH or in the usual places)",
                "",
                valuetype=Setting.FILE,
            )
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self):
        """Remove the setting."""
        ProcessingConfig.removeSetting(SETTING)

    def loadAlgorithms(self):  # noqa: N802
        """Add the algorithms."""
        for kind in (MapLandCover, Polygons, ScoreAgainstLabels, TileAndTrain):
            self.addAlgorithm(kind())

    def supportsNonFileBasedOutput(self):  # noqa: N802
        """Say that results are files."""
        return False

    def supportedOutputRasterLayerExtensions(self):  # noqa: N802
        """Return what class rasters can be."""
        return ["tif", "tiff"]

    def supportedOutputVectorLayerExtensions(self):  # noqa: N802
        """Return what polygons can be."""
        return ["gpkg", "geojson", "fgb", "shp"]

    def defaultVectorFileExtension(self, hasGeometry=True):  # noqa: N802, N803
        """Return what polygons are by default."""
        return "gpkg"


class HrrsiPlugin:
    """What QGIS starts; qgis_process starts its provider alone."""

    def __init__(self):
        self.provider = None

    def initProcessing(self):  # noqa: N802
        """Add the provider."""
        self.provider = HrrsiProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self):  # noqa: N802
        """Add the provider: the toolbox is all there is to see."""
        self.initProcessing()

    def unload(self):
        """Remove the provider."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
