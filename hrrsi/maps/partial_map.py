"""A map that is not finished: what windows gave so far, kept on disk so that a run can go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrrsi.classes import ScoreType
from hrrsi.errors import OutputError
from hrrsi.files import lock_held, prepare_folder, refuse_held, require_regular
from hrrsi.maps.rasters import stored_scores
from hrrsi.maps.raw_pyramid import LabelPyramid, RawPyramid, mean_score, write_errors
from hrrsi.quantities import byte_text

_FORMAT = 2
_JOURNAL = "journal.json"
_LOCK = "lock"
# what is removed, and nothing else
_OWN_FILES = re.compile(
    r"journal\.json(\.new)?|(labels|confidence|probability\d+)(\.overview\d+)?\.(raw|vrt)(\.aux\.xml)?"
)
_CLUSTER_LOCK = "cluster.lock"  # of who has workers of a cluster make the map
# what these have made of it, a file for a strip (`hrrsi.cluster.run`)
STRIPS_FOLDER = "strips"
_OWN_STRIPS = re.compile(r"map\.json|\.?(rows-\d+-\d+-[0-9a-f]+\.npz|map\.json)(\.\w+\.part)?")
_GO_ON = "free space on the disk, then go on with `resume`"


class PartialMap:
    """Rows of labels, and of scores where they are asked for, in a hidden folder beside the map.

    Use `open_partial_map`. A journal says how many rows are there. It is replaced after the rows
    have been written, so a process that is killed at any moment loses at most the strip that it
    was writing.

    Attributes:
        folder: Where it is.
        labels: The labels.
        confidence: The probability of the class that each pixel got, or None.
        probabilities: The probabilities of each class, or an empty list.
        rows_done: Rows that need not be computed again.
    """

    def __init__(
        self,
        path: Path,
        *,
        height: int,
        width: int,
        num_classes: int,
        fingerprint: Mapping[str, object],
        confidence: ScoreType | None,
        probabilities: ScoreType | None,
    ) -> None:
        self._path = path
        self.folder = partial_map_folder(path)
        self.rows_done = 0
        self.labels = LabelPyramid(self.folder, height=height, width=width, num_classes=num_classes)

        def scores(name: str, dtype: str) -> RawPyramid:
            return RawPyramid(
                self.folder, name, height=height, width=width, dtype=dtype, halved=mean_score
            )

        self.confidence = None if confidence is None else scores("confidence", confidence)
        self.probabilities = (
            []
            if probabilities is None
            else [scores(f"probability{index}", probabilities) for index in range(num_classes)]
        )
        content = {
            **fingerprint,
            "size": [height, width],
            "classes": num_classes,
            "confidence": confidence,
            "probabilities": probabilities,
        }
        # as it comes back from the journal: tuples become lists
        self._fingerprint: dict[str, Any] = json.loads(json.dumps(content))

    @property
    def complete(self) -> bool:
        """Whether all rows are there."""
        return self.rows_done == self.labels.height

    @property
    def is_kept(self) -> bool:
        """Whether there is something on the disk that a later run can go on from."""
        return self.rows_done > 0 and (self.folder / _JOURNAL).is_file()

    def append(
        self,
        first_row: int,
        labels: npt.NDArray[np.uint8],
        *,
        confidence: npt.NDArray[Any] | None = None,
        probabilities: npt.NDArray[Any] | None = None,
    ) -> None:
        """Write the next strip. Any thread may do so, one at a time.

        Args:
            first_row: Its first row, which is `rows_done`.
            labels: (rows, width) class indices, 255 where there is no data.
            confidence: (rows, width), float in [0, 1] or uint8 in steps of 0.004; needed where
                the partial map holds confidences.
            probabilities: (classes, rows, width), likewise.

        Raises:
            OutputError: The disk is full. `rows_done` is as before; the partial map has to be
                opened again to go on.
        """
        if first_row != self.labels.rows:
            raise ValueError(f"strip starts at row {first_row}, not at {self.labels.rows}")
        with write_errors(self._path, _GO_ON):
            self.labels.append(labels)
            for scores, bands in (
                (confidence, [self.confidence] if self.confidence else []),
                (probabilities, self.probabilities),
            ):
                if not bands:
                    continue
                if scores is None:
                    raise ValueError("scores are missing")
                stored = stored_scores(scores, labels, bands[0].dtype.name)
                planes = stored.reshape(-1, *labels.shape)
                for band, values in zip(bands, planes, strict=True):
                    band.append(values)
            self._write_journal(self.labels.rows)
        self.rows_done = self.labels.rows

    def discard(self, *, strips: bool = True) -> None:
        """Remove the partial map: the map is finished, or nothing of it is of use.

        Args:
            strips: Also what workers of a cluster have made of it.
        """
        # the lock goes last, so that nobody else takes over a folder that is being removed
        _remove_rows(self.folder)
        if strips:
            remove_strips(self.folder / STRIPS_FOLDER)
        with suppress(OSError):
            (self.folder / _LOCK).unlink()
        with suppress(OSError):  # somebody else has put something there
            self.folder.rmdir()

    def _bands(self) -> list[RawPyramid]:
        return [self.labels, *([self.confidence] if self.confidence else []), *self.probabilities]

    def _start(self, *, resume: bool) -> None:
        """Take up what is there, or remove it.

        Raises:
            OutputError: There is no space for the map, or what is there was made otherwise.
        """
        rows, checksums = self._journalled() if resume else (0, [])
        bands = self._bands()
        if not (
            rows
            and len(checksums) == len(bands)
            and all(band.restore(rows, c) for band, c in zip(bands, checksums, strict=True))
        ):
            rows = 0
            _remove_rows(self.folder)
            for band in self._bands():
                band.restore(0)
        self.rows_done = rows
        free = shutil.disk_usage(self.folder).free
        remaining = sum(band.nbytes - band.bytes_written for band in self._bands())
        scores = sum(band.nbytes for band in self._bands()[1:])
        # class rasters compress to some percent, scores to 20 to 70 percent (floats least)
        estimate = remaining + self.labels.nbytes // 10 + scores * 3 // 4
        if free < estimate:
            raise OutputError(
                f"needs {byte_text(estimate)} of free disk space while the scene is being mapped, "
                f"{byte_text(free)} are free",
                where=self._path,
                fix="free space on the disk, or choose another `out`",
            )

    def _journalled(self) -> tuple[int, list[list[int]]]:
        """Return the rows that are there, and the checksums of each band's files."""
        try:
            require_regular(self.folder / _JOURNAL)
            journal = json.loads((self.folder / _JOURNAL).read_text(encoding="utf-8"))
            if journal["format"] != _FORMAT:
                return 0, []
            begun_with, rows = dict(journal["fingerprint"]), int(journal["rows_done"])
            checksums = [[int(number) for number in band] for band in journal["checksums"]]
            if not 0 <= rows <= self.labels.height:
                return 0, []
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return 0, []  # damaged: what it counted is mapped again
        refuse_differences(self._path, begun_with, self._fingerprint)
        return rows, checksums

    def _write_journal(self, rows: int) -> None:
        journal = {
            "format": _FORMAT,
            "rows_done": rows,
            "checksums": [band.checksums for band in self._bands()],
            "fingerprint": self._fingerprint,
        }
        temporary = self.folder / (_JOURNAL + ".new")
        temporary.write_text(json.dumps(journal), encoding="utf-8")
        temporary.replace(self.folder / _JOURNAL)


@contextmanager
def open_partial_map(
    path: Path,
    *,
    height: int,
    width: int,
    num_classes: int,
    fingerprint: Mapping[str, object],
    confidence: ScoreType | None = None,
    probabilities: ScoreType | None = None,
    resume: bool = False,
    in_cluster: bool = False,
) -> Iterator[PartialMap]:
    """Yield the partial map of a map; nobody else can open it meanwhile.

    It stays when the block ends, however it ends, unless the block calls `PartialMap.discard`.

    Args:
        path: The map.
        height: Rows of the scene.
        width: Columns of the scene.
        num_classes: Number of classes.
        fingerprint: All that labels depend on, by the name that a message gives it: version,
            weights, options, and the scene's time and size. Values go through JSON.
        confidence: Type in which confidences are kept, or None to keep none.
        probabilities: Type in which the probabilities of each class are kept, or None.
        resume: Go on with what is there, if anything is. Otherwise it is removed.
        in_cluster: Whether a worker of a cluster does this for who holds the map
            (`cluster_lock_held`).

    Raises:
        OutputError: Another process maps to `path`, what is there was begun otherwise, or there is
            not enough space on the disk.
    """
    folder = _prepared_folder(path)
    with lock_held(folder / _LOCK, str(os.getpid()), _busy(path)):
        if not in_cluster:
            refuse_held(folder / _CLUSTER_LOCK, _busy(path))
            if not resume:
                remove_strips(folder / STRIPS_FOLDER)
        partial = PartialMap(
            path,
            height=height,
            width=width,
            num_classes=num_classes,
            fingerprint=fingerprint,
            confidence=confidence,
            probabilities=probabilities,
        )
        try:
            with write_errors(path, _GO_ON):
                partial._start(resume=resume)
        except OutputError:
            if not (folder / _JOURNAL).exists():  # nothing is kept in it
                partial.discard(strips=False)
            raise
        yield partial


@contextmanager
def cluster_lock_held(path: Path, *, resume: bool) -> Iterator[None]:
    """Hold a map that workers of a cluster make; what is empty of its folder goes at the end.

    Args:
        path: The map.
        resume: Whether rows count that a single process has left. Otherwise they are removed.

    Raises:
        OutputError: Another process maps to `path`.
    """
    folder = _prepared_folder(path)
    holder = f"{os.getpid()} on {socket.gethostname()}"
    try:
        with lock_held(folder / _CLUSTER_LOCK, holder, _busy(path)):
            refuse_held(folder / _LOCK, _busy(path))
            if not resume:
                _remove_rows(folder)
            yield
    finally:
        for empty in (folder / STRIPS_FOLDER, folder):
            with suppress(OSError):
                empty.rmdir()


def _prepared_folder(path: Path) -> Path:
    folder = partial_map_folder(path)
    if folder.is_symlink():
        raise OutputError(
            "is a link, where hrrsi keeps what it writes and removes",
            where=folder,
            fix="remove the link, or choose another `out`",
        )
    prepare_folder(folder)
    return folder


def _remove_rows(folder: Path) -> None:
    """Remove what a single process has made of a map."""
    if not folder.is_dir():
        return
    (folder / _JOURNAL).unlink(missing_ok=True)  # without it, the rest counts for nothing
    for file in folder.iterdir():
        if _OWN_FILES.fullmatch(file.name):
            file.unlink()


def remove_strips(folder: Path) -> None:
    """Remove what workers of a cluster have made of a map, and the folder if that was all."""
    if folder.is_dir() and not folder.is_symlink():
        for file in folder.iterdir():
            if _OWN_STRIPS.fullmatch(file.name):
                file.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def is_unfinished(path: Path) -> bool:
    """Return whether something of a map is there that is not whole."""
    try:
        names = {file.name for file in partial_map_folder(path).iterdir()}
    except OSError:
        return False
    return bool(names - {_LOCK, _CLUSTER_LOCK})


def rows_kept(path: Path, fingerprint: Mapping[str, object]) -> int:
    """Return how many rows of a map its partial map says it has; 0 where there is none.

    Args:
        path: The map.
        fingerprint: All that labels depend on, as for `open_partial_map`.

    Raises:
        OutputError: It was begun otherwise.
    """
    try:
        journal = json.loads((partial_map_folder(path) / _JOURNAL).read_text(encoding="utf-8"))
        begun_with, rows = dict(journal["fingerprint"]), int(journal["rows_done"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return 0
    now = json.loads(json.dumps(fingerprint))
    begun_with = {name: value for name, value in begun_with.items() if name in now}
    refuse_differences(path, begun_with, now)
    return rows


def partial_map_folder(path: Path) -> Path:
    """Return where the partial map of a map is: ``.NAME.tif.unfinished`` beside it."""
    return path.with_name(f".{path.name}.unfinished")


def _busy(path: Path) -> Callable[[str], OutputError]:
    return lambda process: OutputError(
        f"is being mapped by another process ({process or '?'})",
        where=path,
        fix="wait for it, or choose another `out`",
    )


def refuse_differences(path: str | Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise where what is there of a map was begun otherwise.

    Args:
        path: The map.
        before: What its labels depended on.
        now: What they depend on.

    Raises:
        OutputError: They differ.
    """
    differences = _fingerprint_differences(before, now)
    if differences:
        raise OutputError(
            f"was begun otherwise: {differences}",
            where=path,
            fix="give what it was begun with, or start over without `resume`",
        )


def _fingerprint_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what differs between two fingerprints, e.g. ``overlap 64, not 128``."""
    missing = object()
    return "; ".join(
        f"{name} {_short(before.get(name))}, not {_short(now.get(name))}"
        for name in dict.fromkeys((*before, *now))
        if before.get(name, missing) != now.get(name, missing)
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:12] + "…"
