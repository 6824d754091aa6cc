"""Which height model belongs to which scene: one for all, a folder, or a template of names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from hrrsi.errors import InputError, MissingInputError, OptionError
from hrrsi.quantities import names_text
from hrrsi.scenes.raster_opening import RASTER_SUFFIXES, is_local

_HEIGHT_SUFFIXES = RASTER_SUFFIXES | {".asc", ".dem", ".bil"}
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_SHOWN = 6

Token = int | str


class HeightFile(NamedTuple):
    """A height model: what stands for the placeholder of a template, else its stem; its path."""

    name: str
    path: str


class HeightFiles:
    """The height models of scenes. Use `height_files`.

    Args:
        source: Where they come from, as the user says it, for messages.
        files: All of them; none of ``remote`` ones, which can't be listed.
        kind: A ``single`` one for all scenes, a ``folder`` of them, those that fit a ``template``,
            or a template of ``remote`` ones.
    """

    def __init__(
        self,
        source: str,
        files: Iterable[HeightFile],
        kind: Literal["single", "folder", "template", "remote"],
    ) -> None:
        self._source = source
        self._files = list(files)
        self._kind = kind

    @property
    def paths(self) -> list[str]:
        """Their files; none of ``remote`` ones."""
        return [file.path for file in self._files]

    @property
    def is_single(self) -> bool:
        """Whether one height model is for all scenes."""
        return self._kind == "single"

    def of(self, scene: str, name: str | None = None) -> str:
        """Return the height model of a scene.

        Args:
            scene: The scene's file.
            name: The scene's name under a scheme, where there is one.

        Raises:
            InputError: None fits, or several do.
        """
        match = self.matching(scene, name)
        if match is None:
            examples = names_text([file.name for file in self._files], _SHOWN)
            raise InputError(
                f"no height model fits the scene {name or PurePosixPath(scene).stem} "
                f"(there are those of {examples})",
                where=f"`height={self._source}`",
                fix="add it, or write a template whose {} stands for the scene's name or number",
            )
        return match

    def matching(self, scene: str, name: str | None = None) -> str | None:
        """Return the height model of a scene as `of`, or None where none fits.

        Raises:
            InputError: Several fit.
        """
        stem = PurePosixPath(scene).stem
        if self._kind == "single":
            return self._files[0].path
        if self._kind == "remote":
            return _PLACEHOLDER.sub(lambda _: name or stem, self._source)
        ranks = [self._rank(file.name, stem, name) for file in self._files]
        best = max(ranks, default=0)
        if not best:
            return None
        fitting = [file.path for file, rank in zip(self._files, ranks, strict=True) if rank == best]
        if len(fitting) > 1:
            raise InputError(
                f"{fitting[0]} and {fitting[1]} both fit the scene {name or stem}",
                where=f"`height={self._source}`",
                fix="write a template that tells them apart, e.g. 'dsm/dsm_{}.tif'",
            )
        return fitting[0]

    def require_own(self, scenes: Sequence[tuple[str, str | None]]) -> None:
        """Raise where the names of two scenes lead to one height model.

        Args:
            scenes: The file of each, and its name under a scheme.

        Raises:
            InputError: They do, and it is not meant for all.
        """
        if self._kind == "single":
            return
        scene_of: dict[str, str] = {}
        for scene, name in scenes:
            match = self.matching(scene, name)
            if match in scene_of:
                raise InputError(
                    f"{match} fits two scenes, {scene_of[match]} and {name or scene}",
                    where=f"`height={self._source}`",
                    fix="write a template that tells them apart, e.g. 'dsm/dsm_{}.tif'",
                )
            if match is not None:
                scene_of[match] = name or scene

    def _rank(self, file: str, stem: str, name: str | None) -> int:
        """Return how well a file fits a scene, 0 where it doesn't."""
        if self._kind == "folder":
            return max(_likeness(scene, file) for scene in (stem, name or stem))
        if name is not None:
            return int(_tokens(file) == _tokens(name))
        return _part_length(stem, file)


def height_files(source: str) -> HeightFiles:
    """Return the height models that a user names.

    Args:
        source: One raster for all scenes; a folder, whose rasters fit scenes whose name theirs
            holds, or has the same numbers as (``dsm_area11.tif`` and ``top_area11.tif``); or a
            template such as ``dsm/dsm_{}.tif``, whose ``{}`` stands for the scene's name under a
            scheme, else for that of its file or a part of it with the last number in it (leading
            zeros make no difference).

    Raises:
        InputError: There is no such file, no raster in the folder, or none that fits the template.
    """
    if is_template(source):
        if not is_local(source):
            return HeightFiles(source, [], "remote")
        matches = disk_matches(source)
        if matches and len(matches[0][0]) > 1:
            raise OptionError(
                "has several placeholders", parameter="height", fix="leave one, e.g. {}"
            ).at(f"`height={source}`")
        files = [HeightFile(next(iter(groups.values())), path) for groups, path in matches]
        return template_files(source, files)
    if not is_local(source):
        return HeightFiles(source, [HeightFile(source, source)], "single")
    path = Path(source)
    if path.is_dir():
        files = [
            HeightFile(p.stem, str(p))
            for p in sorted(path.iterdir())
            if p.suffix.lower() in _HEIGHT_SUFFIXES and not p.name.startswith(".") and p.is_file()
        ]
        if not files:
            raise InputError("holds no rasters", where=source, fix="name a folder of height models")
        return HeightFiles(source, files, "folder")
    if not path.exists():
        raise MissingInputError(
            "no such height model",
            where=source,
            fix="name a raster, a folder, or a template such as 'dsm/dsm_{}.tif'",
        )
    return HeightFiles(source, [HeightFile(source, source)], "single")


def is_template(source: str) -> bool:
    """Return whether a name holds a placeholder such as ``{}`` or ``{name}``."""
    return _PLACEHOLDER.search(source) is not None


def template_files(template: str, files: Iterable[HeightFile]) -> HeightFiles:
    """Return the height models that fit a template.

    Raises:
        InputError: There are none.
    """
    fitting = HeightFiles(template, files, "template")
    if not fitting.paths:
        raise MissingInputError(
            "no file fits it",
            where=f"`height={template}`",
            fix="check the path; {} stands for the scene's name or number",
        )
    return fitting


def disk_matches(template: str) -> list[tuple[dict[str, str], str]]:
    """Return the files on this machine that fit a template, with what its placeholders are."""
    pattern = "*".join(glob.escape(piece) for piece in _PLACEHOLDER.split(template)[::2])
    files = [path for path in sorted(glob.glob(pattern)) if Path(path).is_file()]
    matches = [(template_match(template, path), path) for path in files]
    return [(groups, path) for groups, path in matches if groups is not None]


def template_match(template: str, path: str, *, at_end: bool = False) -> dict[str, str] | None:
    """Return what the placeholders of a template are in a path, or None where it doesn't fit.

    Args:
        template: A path with placeholders; ``{}`` is the placeholder "scene".
        path: With slashes.
        at_end: Whether folders may come before what the template says.
    """
    regex, placeholders = "", set[str]()
    for index, piece in enumerate(_PLACEHOLDER.split(template)):
        name = piece or "scene"
        if index % 2 == 0:
            regex += re.escape(piece)
        elif name in placeholders:
            regex += f"(?P={name})"
        else:
            placeholders.add(name)
            regex += f"(?P<{name}>[^/]+?)"
    match = re.search(("(?:^|/)" if at_end else "^") + regex + "$", path, re.DOTALL)
    return match.groupdict() if match else None


def _tokens(name: str) -> list[Token]:
    """Return a name as words, signs and numbers, without regard to case and leading zeros."""
    parts = re.findall(r"\d+|[^\W\d_]+|[\W_]", name)
    return [int(p) if p.isdecimal() else p.casefold() for p in parts]


def _numbers(name: str) -> list[int]:
    return [token for token in _tokens(name) if isinstance(token, int)]


def _likeness(scene: str, file: str) -> int:
    """Return how well the names of a scene and of a file in a folder go together, 0: not."""
    scene_tokens, file_tokens = _tokens(scene), _tokens(file)
    if scene_tokens == file_tokens:
        return 3
    letters = any(isinstance(token, str) and token.isalpha() for token in scene_tokens)
    if letters and _places(file_tokens, scene_tokens):
        return 2
    if _numbers(scene):
        return int(_numbers(scene) == _numbers(file))
    return int(bool(_places(scene_tokens, file_tokens)))


def _part_length(scene: str, part: str) -> int:
    """Return how much of a scene's name a part of it is; 0 unless its last number is in it."""
    whole, part_tokens = _tokens(scene), _tokens(part)
    if whole == part_tokens:
        return len(whole) + 1
    last = max((i for i, token in enumerate(whole) if isinstance(token, int)), default=None)
    for start in _places(whole, part_tokens):
        stop = start + len(part_tokens)
        if stop == len(whole) if last is None else start <= last < stop:
            return len(part_tokens)
    return 0


def _places(whole: list[Token], part: list[Token]) -> list[int]:
    return [i for i in range(len(whole) - len(part) + 1) if whole[i : i + len(part)] == part]
