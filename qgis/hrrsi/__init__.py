"""The QGIS plugin of hrrsi: land-cover maps, polygons, scores and training as Processing tools."""


def classFactory(iface):  # noqa: N802, which QGIS calls
    """Return the plugin."""
    from .provider import HrrsiPlugin

    return HrrsiPlugin()
