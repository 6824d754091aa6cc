"""The height models of a scheme's scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hrrsi.errors import HrrsiError
from hrrsi.labels.scheme import Scheme, match_scene
from hrrsi.scenes.height_files import (
    HeightFile,
    HeightFiles,
    disk_matches,
    height_files,
    is_template,
    template_files,
    template_match,
)
from hrrsi.scenes.mosaic import is_local

FROM_SCHEME = "scheme"


def scene_heights(
    given: str, scheme: Scheme, raw: Sequence[Path], found: Sequence[tuple[str, str]]
) -> HeightFiles:
    """Return the height models of scenes.

    Args:
        given: ``scheme`` for those that the scheme's `heights` describe; else as `height_files`
            takes it, where a template's placeholders may also be those of the scheme. What is not
            in the current folder is looked for in the folders and archives of the scenes.
        scheme: Says how scenes and height models are named.
        raw: The folders and archives of the scenes.
        found: The files in them: each as a path in which an archive counts as a folder, and as
            GDAL opens it.

    Raises:
        HrrsiError: As `height_files`, or the scheme describes no height models.
    """
    if given == FROM_SCHEME:
        return _heights_of_scheme(scheme, raw, found)
    if is_template(given) and is_local(given):
        matches = disk_matches(given)
        if not matches:
            inside = [(template_match(given, place, at_end=True), path) for place, path in found]
            matches = [(groups, path) for groups, path in inside if groups is not None]
        files = [
            HeightFile(name, path)
            for groups, path in matches
            if (name := scheme.scene_name(groups)) is not None
        ]
        return template_files(given, _plain_first(files))
    beside = [folder / given for folder in raw if folder.is_dir() and (folder / given).exists()]
    if beside and is_local(given) and not Path(given).exists():
        return height_files(str(beside[0]))
    return height_files(given)


def _heights_of_scheme(
    scheme: Scheme, raw: Sequence[Path], found: Sequence[tuple[str, str]]
) -> HeightFiles:
    if not scheme.heights:
        raise HrrsiError(
            f"the scheme {scheme.name} does not say how height models are named",
            where="--height scheme",
            fix="give a template such as 'dsm/dsm_{}.tif', or add `heights` to the scheme",
        )
    for pattern in scheme.heights:
        named = [(match_scene(scheme, [pattern], place), path) for place, path in found]
        files = [HeightFile(name, path) for name, path in named if name is not None]
        if files:
            return HeightFiles(pattern, _plain_first(files), "template")
    raise HrrsiError(
        f"no height models (looked for {' or '.join(scheme.heights)})",
        where=", ".join(map(str, raw)),
        fix="give their folder or archive too",
    )


def _plain_first(files: Sequence[HeightFile]) -> list[HeightFile]:
    """Return files without those in archives that lie unpacked beside them."""
    unpacked = {Path(file.path).name for file in files if is_local(file.path)}
    return [f for f in files if is_local(f.path) or Path(f.path).name not in unpacked]
