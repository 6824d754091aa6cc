"""Which scenes folders and zip archives hold, and which label and height model belong to which."""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hrrsi.errors import FileWarning, InputError, MissingInputError, warn
from hrrsi.files import named_layer, require_regular
from hrrsi.labels.scheme import VECTOR_SUFFIXES, Scheme, match_scene
from hrrsi.scenes.height_files import (
    HeightFile,
    HeightFiles,
    disk_matches,
    height_files,
    is_template,
    template_files,
    template_match,
)
from hrrsi.scenes.raster_opening import RASTER_SUFFIXES, is_local
from hrrsi.scenes.scene_rasters import distinct_rasters, may_be_scene

FROM_SCHEME = "scheme"


@dataclass(frozen=True)
class SceneFiles:
    """The files of one scene, as paths that GDAL opens (``/vsizip/...`` inside an archive).

    Attributes:
        name: The scene's name, as splits use it.
        image: The image.
        label: The label, or None where there is none.
        more_labels: Others, whose classes count before those of the label, the last one's first.
        eroded_label: The label with eroded class borders, or None where there is none.
        height: The height model, or None where none is asked for or there.
    """

    name: str
    image: str
    label: str | None = None
    eroded_label: str | None = None
    height: str | None = None
    more_labels: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The label, and others over it."""
        return () if self.label is None else (self.label, *self.more_labels)

    def label_raster(self, scheme: Scheme) -> str | None:
        """Return the first raster among the labels, or None where they are polygons.

        Args:
            scheme: Says what labels are whose names don't tell.
        """
        labels = self.labels or tuple(filter(None, [self.eroded_label]))
        rasters = (label for label in labels if scheme.reading(label).label_format != "polygons")
        return next(rasters, None)

    @property
    def paths(self) -> list[str]:
        """The files that are there."""
        files = (self.image, *self.labels, self.eroded_label, self.height)
        return [path for path in files if path is not None]


def labelled_scenes(
    raw: Sequence[Path],
    scheme: Scheme,
    *,
    labels: Sequence[str | Path] = (),
    heights: str | None = None,
) -> list[SceneFiles]:
    """Return the scenes in folders and zip archives, in the natural order of their names.

    A raster that is given by itself is a scene too, named after its file where the scheme does not
    say otherwise. Archives are read through GDAL's ``/vsizip/``, never unpacked. Where several
    files fit one scene, the scheme's earlier pattern wins, then a plain file over one in an
    archive. Rasters that hrrsi wrote are no scenes, nor are files of a mosaic (VRT) beside them.

    Warns (`FileWarning`) of such files, and of those that differ from an image in their suffix.

    Args:
        raw: Folders (searched with their subfolders, and the archives in them), zip archives and
            rasters.
        scheme: Says how images and labels are named.
        labels: Files that hold the labels of all scenes, instead of one a scene, later ones over
            earlier ones.
        heights: Where height models are looked for too, as `scene_heights` takes them.

    Raises:
        InputError: A path is missing or a vector file, an archive is damaged or
            holds a member that leaves it, no scene was found, two files claim one scene, or there
            are no such height models.
    """
    candidates = [c for path in raw for c in _candidates(path)]
    candidates = list({c.path: c for c in candidates}.values())
    for label in labels:
        file = Path(named_layer(label)[0])
        if file.is_dir() and file.suffix.lower() != ".gdb":
            raise InputError(
                "is a folder, not a file of labels",
                where=label,
                fix="name a file in it, or say in a scheme which files are whose labels",
            )
    own = {os.path.realpath(named_layer(label)[0]) for label in labels}
    candidates = [c for c in candidates if os.path.realpath(c.path) not in own]
    candidates = [c for c in candidates if not _is_image_by_hrrsi(c, scheme)]
    images = _without_doubles(_matches(candidates, scheme, scheme.images), candidates, scheme)
    for candidate in candidates:
        if candidate.is_chosen and candidate.path not in images.values():
            _add_chosen(images, candidate.path)
    if not images:
        raise _no_scenes(raw, scheme, candidates)
    ordered = sorted(images, key=natural_key)
    full: dict[str, tuple[str, ...]]
    if labels:
        full, eroded = dict.fromkeys(images, tuple(map(str, labels))), {}
    else:
        if scheme.join_labels:
            full = _all_matches(candidates, scheme, scheme.labels)
        else:
            ways_out = ", or take all with `join_labels: true` in the scheme"
            matches = _matches(candidates, scheme, scheme.labels, ways_out)
            full = {name: (path,) for name, path in matches.items()}
        eroded = _matches(candidates, scheme, scheme.eroded_labels)
    models: dict[str, str | None] = {}
    if heights is not None:
        height_models = scene_heights(
            heights, scheme, raw, [(c.virtual, c.path) for c in candidates]
        )
        height_models.require_own([(images[name], name) for name in ordered])
        models = {name: height_models.matching(images[name], name) for name in ordered}
    return [
        SceneFiles(
            name,
            images[name],
            next(iter(full.get(name, ())), None),
            eroded.get(name),
            models.get(name),
            full.get(name, ())[1:],
        )
        for name in ordered
    ]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key under which ``area2`` comes before ``area11``."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts]


def scene_heights(
    source: str, scheme: Scheme, raw: Sequence[Path], files: Sequence[tuple[str, str]]
) -> HeightFiles:
    """Return the height models of scenes.

    Args:
        source: ``scheme`` for those that the scheme's `heights` describe; else as `height_files`
            takes it, where a template's placeholders may also be those of the scheme. What is not
            in the current folder is looked for in the folders and archives of the scenes.
        scheme: Says how scenes and height models are named.
        raw: The folders and archives of the scenes.
        files: The files in them: each as a path in which an archive counts as a folder, and as
            GDAL opens it.

    Raises:
        InputError: As `height_files`, or the scheme describes no height models.
    """
    if source == FROM_SCHEME:
        return _heights_of_scheme(scheme, raw, files)
    if is_template(source) and is_local(source):
        matches = disk_matches(source)
        if not matches:
            inside = [(template_match(source, place, at_end=True), path) for place, path in files]
            matches = [(groups, path) for groups, path in inside if groups is not None]
        heights = [
            HeightFile(name, path)
            for groups, path in matches
            if (name := scheme.scene_name(groups)) is not None
        ]
        return template_files(source, _plain_first(heights))
    beside = [folder / source for folder in raw if folder.is_dir() and (folder / source).exists()]
    if beside and is_local(source) and not Path(source).exists():
        return height_files(str(beside[0]))
    return height_files(source)


def _heights_of_scheme(
    scheme: Scheme, raw: Sequence[Path], files: Sequence[tuple[str, str]]
) -> HeightFiles:
    if not scheme.heights:
        raise InputError(
            f"the scheme {scheme.name} does not say how height models are named",
            where="`height=scheme`",
            fix="give a template such as 'dsm/dsm_{}.tif', or add `heights` to the scheme",
        )
    for pattern in scheme.heights:
        pairs = [(match_scene(scheme, [pattern], place), path) for place, path in files]
        heights = [HeightFile(name, path) for name, path in pairs if name is not None]
        if heights:
            return HeightFiles(pattern, _plain_first(heights), "template")
    raise MissingInputError(
        f"no height models (looked for {' or '.join(scheme.heights)})",
        where=", ".join(map(str, raw)),
        fix="give their folder or archive too",
    )


def _plain_first(files: Sequence[HeightFile]) -> list[HeightFile]:
    """Return files without those in archives that lie unpacked beside them."""
    unpacked = {Path(file.path).name for file in files if is_local(file.path)}
    return [f for f in files if is_local(f.path) or Path(f.path).name not in unpacked]


def _is_image_by_hrrsi(candidate: _Candidate, scheme: Scheme) -> bool:
    """Return whether a file would be an image by its name, and is a map that hrrsi made of one."""
    if candidate.is_chosen or match_scene(scheme, scheme.images, candidate.virtual) is None:
        return False
    as_label = match_scene(scheme, (*scheme.labels, *scheme.eroded_labels), candidate.virtual)
    return as_label is None and not may_be_scene(candidate.path)


def _without_doubles(
    images: dict[str, str], candidates: Sequence[_Candidate], scheme: Scheme
) -> dict[str, str]:
    """Return images by scene without those that a mosaic among them shows, and say what is not cut.

    That is also a file beside an image that differs in its suffix alone, such as a quick-look.
    """
    chosen = {c.path for c in candidates if c.is_chosen}
    distinct = distinct_rasters([path for path in images.values() if path not in chosen])
    kept = chosen | set(distinct.rasters)
    images = {name: path for name, path in images.items() if path in kept}
    taken = set(images.values())
    others = (*scheme.labels, *scheme.eroded_labels, *scheme.heights)
    stems = {Path(path).with_suffix(""): path for path in images.values()}
    beside = [
        (c.path, stems[stem])
        for c in candidates
        if c.path not in taken
        and not c.is_chosen
        and Path(c.path).suffix.lower() in RASTER_SUFFIXES
        and (stem := Path(c.path).with_suffix("")) in stems
        and match_scene(scheme, others, c.virtual) is None
    ]
    notes = distinct.notes
    if beside:
        path, image = beside[0]
        more = f", and so are {len(beside) - 1} more" if len(beside) > 1 else ""
        notes.append(f"{path}: left out, since {Path(image).name} has its name{more}")
    for note in notes:
        warn(note, FileWarning)
    return images


class _Candidate(NamedTuple):
    virtual: str  # a zip archive counts as a folder
    path: str
    zipped: bool
    is_chosen: bool = False  # given by itself, not found in a folder


def _add_chosen(images: dict[str, str], path: str) -> None:
    """Add a raster that was given by itself to the images by scene.

    Raises:
        InputError: Another one has its name.
    """
    name = Path(path).stem
    if name in images:
        raise InputError(
            f"the files {images[name]} and {path} claim the same scene",
            where=f"scene {name}",
            fix="rename one of them",
        )
    images[name] = path


def _all_matches(
    candidates: list[_Candidate], scheme: Scheme, patterns: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return all files that fit patterns, by scene: by the first pattern of each, then by path.

    Of files of one name and pattern, plain ones count rather than those in archives.
    """
    candidates_of: dict[str, list[tuple[int, _Candidate]]] = {}
    for candidate in candidates:
        for order, pattern in enumerate(patterns):
            name = match_scene(scheme, [pattern], candidate.virtual)
            if name is not None:
                candidates_of.setdefault(name, []).append((order, candidate))
                break
    matches = {}
    for name, files in candidates_of.items():
        plain = {(order, PurePosixPath(c.virtual).name) for order, c in files if not c.zipped}
        ordered = [
            (order, c)
            for order, c in files
            if not c.zipped or (order, PurePosixPath(c.virtual).name) not in plain
        ]
        ordered.sort(key=lambda file: (file[0], natural_key(file[1].virtual)))
        matches[name] = tuple(c.path for _, c in ordered)
    return matches


def _claimed_twice(scene: str, first: str, second: str, ways_out: str = "") -> InputError:
    return InputError(
        f"the files {first} and {second} claim the same scene",
        where=f"scene {scene}",
        fix="name the folders or archives that you want, or let the scheme's `scene` tell them "
        f"apart{ways_out}",
    )


def _matches(
    candidates: list[_Candidate], scheme: Scheme, patterns: Sequence[str], ways_out: str = ""
) -> dict[str, str]:
    best: dict[str, tuple[tuple[int, bool], _Candidate]] = {}
    for candidate in candidates:
        for order, pattern in enumerate(patterns):
            name = match_scene(scheme, [pattern], candidate.virtual)
            if name is None:
                continue
            rank = (order, candidate.zipped)
            if name in best and best[name][0] == rank:
                raise _claimed_twice(name, best[name][1].path, candidate.path, ways_out)
            if name not in best or rank < best[name][0]:
                best[name] = (rank, candidate)
            break
    return {name: candidate.path for name, (_, candidate) in best.items()}


def _candidates(raw: Path) -> Iterator[_Candidate]:
    if raw.is_dir():
        yield from _folder_candidates(raw)
    elif not raw.exists():
        raise MissingInputError("no such file or folder", where=raw, fix="check the path")
    elif raw.suffix.lower() == ".zip":
        yield from _zip_candidates(raw)
    elif raw.suffix.lower() in VECTOR_SUFFIXES:
        raise InputError(
            "is a vector file, not imagery",
            where=raw,
            fix=f"give the scenes, and it as `labels={raw}`",
        )
    else:
        require_regular(raw)
        yield _Candidate(raw.absolute().as_posix(), str(raw), zipped=False, is_chosen=True)


def _folder_candidates(raw: Path) -> Iterator[_Candidate]:
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(os.path.abspath(raw), followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() == ".zip":
                yield from _zip_candidates(path)
            else:
                yield _Candidate(path.as_posix(), str(path), zipped=False)


def _zip_candidates(archive: Path) -> Iterator[_Candidate]:
    absolute = Path(os.path.abspath(archive))
    require_regular(absolute)
    try:
        with zipfile.ZipFile(absolute) as opened:
            members = opened.infolist()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise InputError(
            "is not a complete zip archive", where=archive, fix="download it again"
        ) from error
    for member in members:
        if not PurePosixPath(member.filename).parts:
            continue  # the archive itself
        name = member.filename.replace("\\", "/")
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
            raise InputError(
                f"holds a member whose path leaves the archive ({member.filename!r})",
                where=archive,
                fix="don't trust this archive; get it from its source",
            )
        if member.is_dir() or parts[-1].startswith(".") or "__MACOSX" in parts:
            continue
        yield _Candidate(
            f"{absolute.as_posix()}/{name}",
            f"/vsizip/{{{absolute}}}/{member.filename}",
            zipped=True,
        )


def _no_scenes(raw: Sequence[Path], scheme: Scheme, candidates: Sequence[_Candidate]) -> InputError:
    nested = [c for c in candidates if c.zipped and c.virtual.lower().endswith(".zip")]
    if nested:
        fix = f"it holds another archive ({PurePosixPath(nested[0].virtual).name}): unpack that"
    else:
        fix = "name another folder or another `scheme`"
    return MissingInputError(
        f"no scenes of the scheme {scheme.name!r} among {len(candidates)} files "
        f"(looked for {' or '.join(scheme.images)})",
        where=", ".join(map(str, raw)),
        fix=fix,
    )
