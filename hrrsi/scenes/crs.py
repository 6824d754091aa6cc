"""Coordinate reference systems: as users name them, of rasters without one, in words, datums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rasterio import Env
from rasterio.crs import CRS
from rasterio.errors import CRSError

from hrrsi.errors import FileWarning, InputError, OptionError, warn
from hrrsi.scenes.georeference import has_transform
from hrrsi.scenes.raster_opening import is_local

_datum_messages: set[str] = set()


def crs_named(text: str) -> CRS:
    """Return the CRS that a user names, e.g. ``EPSG:25832``.

    Raises:
        OptionError: There is none of that name.
    """
    try:
        with Env():  # else PROJ writes a line of its own
            return CRS.from_user_input(text)
    except (CRSError, ValueError) as error:  # EPSG:nine
        raise OptionError(
            f"{text!r} is no coordinate reference system",
            parameter="crs",
            fix="give a code such as EPSG:25832, or WKT",
        ) from error


def crs_to_assign(dataset: Any, path: str | Path, crs: str | None = None) -> CRS | None:
    """Return the CRS that a raster has but does not hold itself, or None.

    Args:
        dataset: Its rasterio dataset.
        path: Its name. Where it has a world file, a ``.prj`` file of its name counts.
        crs: What the user says of rasters without one, as `crs_named` takes it.

    Raises:
        InputError: It is in another CRS than the user says, or has no place that a CRS could
            stand for, or its ``.prj`` holds no CRS.
    """
    own = dataset.crs or dataset.gcps[1]
    if own is None and not has_transform(dataset):
        if crs is None:
            return None
        raise InputError(
            "has neither a transform nor a world file, so a CRS gives it no place",
            where=path,
            fix=f"leave `crs={crs}` out for it, or put its world file beside it",
        )
    if own is None:
        return _crs_beside(path) if crs is None else crs_named(crs)
    if crs is not None and crs_named(crs) != own:
        raise InputError(
            f"is in {own.to_string() if own.to_epsg() else 'a CRS of its own'}, not in {crs}",
            where=path,
            fix="leave `crs` out, which is for rasters that hold none; if the file is wrong, "
            f"`gdal_edit.py -a_srs {crs}` corrects it",
        )
    return None


def _crs_beside(path: str | Path) -> CRS | None:
    if not is_local(str(path)):
        return None
    name = Path(path)
    beside = next(
        (f for f in (name.with_suffix(".prj"), name.with_suffix(".PRJ")) if f.is_file()), None
    )
    if beside is None:
        return None
    try:
        return CRS.from_user_input(beside.read_text(encoding="utf-8", errors="replace").strip())
    except (CRSError, OSError, ValueError) as error:
        raise InputError(
            "holds no coordinate reference system", where=beside, fix="correct or remove it"
        ) from error


def crs_name(crs: CRS) -> str:
    """Return what people call a CRS: its code, e.g. ``EPSG:28992``, else its name."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs_title(crs)


def crs_title(crs: CRS) -> str:
    """Return the name of a CRS, e.g. ``Amersfoort / RD New``."""
    return str(crs.to_wkt()).split('"')[1]


def warn_of_datums(path: str | Path, crs: CRS, scene_crs: CRS) -> None:
    """Warn once a process that a file and a scene rest on other figures of the Earth.

    Between these, coordinates are changed by formulas that can be some metres off (of OSGB 36,
    ED 50, DHDN): rasterio comes without the grids of exact shifts.

    Args:
        path: The file.
        crs: Its CRS.
        scene_crs: That of the scene.
    """
    figures = _other_figures(crs, scene_crs)
    if figures is not None:
        _warn_once(
            f"{path}: is in {crs_name(crs)} where the scene is in {crs_name(scene_crs)}; {figures}"
            ", so it may lie up to some metres off; if it does, bring it into the scene's CRS in a "
            "GIS that has the grids of exact shifts"
        )


def warn_of_longitudes(crs: CRS) -> None:
    """Warn once a process that longitudes of GeoJSON rest on another figure of the Earth.

    As `warn_of_datums`, of all files that are written.

    Args:
        crs: The CRS of the scenes.
    """
    figures = _other_figures(crs, CRS.from_epsg(4326))
    if figures is not None:
        _warn_once(
            f"GeoJSON holds WGS 84 longitudes and latitudes where scenes are in {crs_name(crs)}; "
            f"{figures}, so they may lie up to some metres off; `vector=gpkg` keeps the scenes' CRS"
        )


def _other_figures(first: CRS, second: CRS) -> str | None:
    """Return in words that two CRS rest on different figures of the Earth, or None."""
    ellipsoids = _ellipsoid(first), _ellipsoid(second)
    if None in ellipsoids or ellipsoids[0] == ellipsoids[1]:
        return None
    return f"these rest on different figures of the Earth ({ellipsoids[0]}, {ellipsoids[1]})"


def _warn_once(line: str) -> None:
    if line not in _datum_messages:
        _datum_messages.add(line)
        warn(line, FileWarning)


def _ellipsoid(crs: CRS) -> str | None:
    """Return the name of the ellipsoid of a CRS, None where it says none; GRS 80 is WGS 84's."""
    part: Any = crs.to_dict(projjson=True)
    while isinstance(part, dict):
        if "ellipsoid" in part:
            name = str(part["ellipsoid"].get("name"))
            return "WGS 84" if name in ("GRS 1980", "GRS80", "WGS84") else name
        inner = ("base_crs", "source_crs", "datum", "datum_ensemble")
        part = next((part[key] for key in inner if key in part), part.get("components"))
        part = part[0] if isinstance(part, list) else part
    return None
