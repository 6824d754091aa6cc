"""The files of a map: made by hrrsi in a hidden folder, and moved to their places together.

Nothing here needs QGIS.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .program import ProgramError

_CLASS_MAP_ENDING = "_classes"  # which names of a map's other files leave out


@dataclass(frozen=True)
class MapFiles:
    """Where the files of a map go, each only if it is asked for.

    hrrsi writes them in a hidden folder beside the first one, and they are moved to their places
    together once all are whole: what was there before stays until then, and what a cancelled run
    leaves is in that folder, where the next run finds it.

    Attributes:
        classes: The class raster, a ``.tif``; it is made in any case.
        confidence: A ``.tif``, or nothing.
        polygons: A vector file, or nothing.
        picture: A ``.png`` or ``.pdf``, or nothing.
        finished: A class raster that is there already, and that polygons are made of, or nothing.
    """

    classes: str = ""
    confidence: str = ""
    polygons: str = ""
    picture: str = ""
    finished: str = ""

    @property
    def folder(self) -> Path:
        """The hidden folder that they are made in."""
        first = Path(next(filter(None, (self.classes, self.polygons, self.confidence))))
        return first.with_name(f".{first.name}.hrrsi")

    @property
    def drafts(self) -> MapFiles:
        """The files as hrrsi makes them, in the hidden folder."""
        classes = self.folder / (Path(self.classes).name if self.classes else "map_classes.tif")
        if self.finished:
            classes = Path(self.finished)
        stem = classes.stem
        if stem.endswith(_CLASS_MAP_ENDING):
            stem = stem[: -len(_CLASS_MAP_ENDING)]
        return MapFiles(
            str(classes),
            str(self.folder / f"{stem}_confidence.tif") if self.confidence else "",
            *(
                str(self.folder / Path(path).name) if path else ""
                for path in (self.polygons, self.picture)
            ),
        )

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on with: what a run that did not end has left."""
        classes = Path(self.drafts.classes)
        unfinished = classes.with_name(f".{classes.name}.unfinished")
        return bool(self.finished) or classes.exists() or unfinished.is_dir()

    def words(self) -> list[str]:
        """Return the words that ask for them, and to go on with what is there."""
        drafts = self.drafts
        options = {
            "--out": drafts.classes,
            "--vector": drafts.polygons,
            "--preview": drafts.picture,
        }
        confidence = ["--confidence", "uint8"] if drafts.confidence else []
        words = [word for name, path in options.items() if path for word in (name, path)]
        return [*words, *confidence, *(["--resume"] if self.is_begun else [])]

    def prepare(self, inputs: Iterable[str] = (), *, start_over: bool = False) -> None:
        """Make the hidden folder.

        Args:
            inputs: What is read, as GDAL opens it.
            start_over: Whether what an earlier run has left in the folder goes.

        Raises:
            ProgramError: It can't be made, or a file would replace what is no earlier result.
        """
        refuse_inputs(self.paths, inputs)
        if not self.is_begun:
            self._refuse_companions()
        if start_over:
            self.discard()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProgramError(
                f"{self.folder.parent}: can't be written to ({error.strerror}); choose another "
                "folder"
            ) from error

    def _refuse_companions(self) -> None:
        """Raise where a file beside a result is there already, without that result."""
        own = {Path(path) for path in self.paths if path}
        for target in own:
            for _, place in _companions(target, target):
                if place.exists() and not any(
                    path.exists() for path in own if _goes_with(path, place)
                ):
                    raise ProgramError(
                        f"{place}: is there already, and belongs to something else; choose another "
                        f"name than {target.name}"
                    )

    def discard(self) -> None:
        """Remove the hidden folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def move_into_place(self) -> None:
        """Move what was asked for to its place, with the files beside it, and remove the rest.

        Raises:
            ProgramError: A file can't be written.
        """
        for source, target in self.moves:
            for file, place in _companions(Path(source), Path(target)):
                if file.exists():
                    _copy_whole(file, place)
            _copy_whole(Path(source), Path(target))
        self.discard()

    @property
    def moves(self) -> list[tuple[str, str]]:
        """Each file that is asked for, as hrrsi makes it, and its place."""
        return [pair for pair in zip(self.drafts.paths, self.paths) if pair[1]]

    @property
    def paths(self) -> tuple[str, str, str, str]:
        """All of them, what the class raster is made with before it, what is made of it after."""
        return self.confidence, self.classes, self.polygons, self.picture


def refuse_inputs(outputs: Iterable[str], inputs: Iterable[str]) -> None:
    """Raise where an output would replace what is read, or another output.

    Args:
        outputs: Files, and nothing for those that are not asked for.
        inputs: What is read, as GDAL opens it: ``areas.gpkg|layername=parcels``.

    Raises:
        ProgramError: One would.
    """
    files = {os.path.realpath(name.split("|")[0]) for name in inputs if name}
    files |= {os.path.realpath(part) for name in inputs for part in name.split(":")[1:2] if part}
    paths = set()
    for output in filter(None, outputs):
        path = os.path.realpath(output)
        if path in files:
            raise ProgramError(f"{output}: is read, and would be replaced; choose another output")
        if path in paths:
            raise ProgramError(f"{output}: is named for two outputs; choose another name for one")
        paths.add(path)


def _companions(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return what may be made beside a file, e.g. ``NAME.qml`` or a shapefile's parts."""
    suffix = source.suffix.lower()
    endings = {".tif": (".qml",), ".shp": (".shx", ".dbf", ".prj", ".cpg", ".qml")}.get(
        suffix, (".qml",) if suffix in (".tiff", ".geojson", ".fgb") else ()
    )
    pairs = [(source.with_suffix(end), target.with_suffix(end)) for end in endings]
    if suffix in (".tif", ".tiff"):
        sidecars = (path.with_name(f"{path.name}.aux.xml") for path in (source, target))
        pairs.append((next(sidecars), next(sidecars)))
    return pairs


def _goes_with(path: Path, companion: Path) -> bool:
    return companion in [place for _, place in _companions(path, path)]


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a file under its final name at once; a style may be wanted twice, so it stays."""
    draft = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        try:
            os.link(source, draft)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, draft)
        os.replace(draft, target)
        draft.unlink(missing_ok=True)  # where both were links to one file, it is still there
        if target.suffix.lower() == ".gpkg":  # QGIS leaves a journal while it shows the old one
            for ending in ("-wal", "-shm"):
                target.with_name(target.name + ending).unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ProgramError(
            f"{target}: can't be written ({error.strerror}); the map is whole in {source.parent}"
        ) from error
