"""What there is to say of scenes: each thing once, and of how many of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hrrsi.errors import warn
from hrrsi.quantities import counted_names

_SCENES_NAMED = 5


class SceneWarning(UserWarning):
    """Something about a scene that may make its map worse; the map is made all the same."""


class ResolutionWarning(SceneWarning):
    """A scene's ground resolution is far from the one that the weights were trained on."""


class SceneNotice(SceneWarning):
    """Something that was decided for a scene, as it should be."""


class ResolutionNotice(SceneNotice):
    """A scene is read at another ground resolution than its own, or at an unknown one."""


class ScaleWarning(SceneWarning):
    """The value of full brightness was estimated, or is another one than in training."""


class BandWarning(SceneWarning):
    """The bands that the network sees may not be those that it was trained on."""


class BandNotice(SceneNotice):
    """A scene's own word on its bands decided which are read."""


class MissingDataWarning(SceneWarning):
    """Pixels that seem to hold no data get a class, since nothing says so."""


class MissingDataNotice(SceneNotice):
    """A value was found to mark pixels without data."""


class ZonesWarning(SceneWarning):
    """No zone lies on a scene."""


class UnlikeTrainingWarning(SceneWarning):
    """A scene's bands or heights are unlike those that the weights were trained on."""


class HeightWarning(SceneWarning):
    """Some pixels of a scene have no height."""


class SceneRemark(NamedTuple):
    """Something to be said of a scene.

    Attributes:
        kind: The warning.
        path: The scene.
        text: What is to be said of it.
        once_for: What tells this from other things of the same kind.
        counted: What `SceneRemarks.count_scenes` says of several scenes; None: nothing.
    """

    kind: type[SceneWarning]
    path: str
    text: str
    once_for: float | str | None
    counted: str | None


class SceneRemarks:
    """Warns of each thing once, for the first scene of which it is to be said.

    Attributes:
        on_remark: Called with each remark instead, for another process to `say`; None: it is said.
    """

    def __init__(self) -> None:
        self.on_remark: Callable[[SceneRemark], object] | None = None
        self._remarks: dict[object, _Remark] = {}
        self._is_silent = False

    def warn(
        self,
        kind: type[SceneWarning],
        path: str,
        text: str,
        *,
        once_for: float | str | None = None,
        counted: str | None = None,
    ) -> None:
        """Warn of something about a scene, unless another scene has had the same.

        Args:
            kind: The warning.
            path: The scene.
            text: What is to be said of it.
            once_for: What tells this from other things of the same kind.
            counted: What `count_scenes` says of several scenes; None: nothing.
        """
        remark = SceneRemark(kind, path, text, once_for, counted)
        (self.on_remark or self.say)(remark)

    def say(self, remark: SceneRemark) -> None:
        """Warn of the first scene of which this is to be said, and remember the others."""
        kind, path, text, once_for, counted = remark
        same = self._remarks.setdefault((kind, once_for), _Remark(kind, counted, set()))
        if not same.paths and not self._is_silent:
            warn(f"{path}: {text}", kind)
        same.paths.add(path)

    def count_scenes(self, scenes: int) -> None:
        """Say of how many scenes things were said, and nothing from now on.

        Where a warning is not for all of them, the first ones are named.

        Args:
            scenes: How many were looked at.
        """
        for remark in self._remarks.values():
            if remark.counted is not None and len(remark.paths) > 1 and not self._is_silent:
                line = f"{len(remark.paths)} of {scenes} scenes: {remark.counted}"
                if len(remark.paths) < scenes and not issubclass(remark.kind, SceneNotice):
                    names = sorted(Path(path).name for path in remark.paths)
                    line += f" ({counted_names(names, _SCENES_NAMED)})"
                warn(line, remark.kind)
        self._is_silent = True


class _Remark(NamedTuple):
    """Of which scenes something was to be said, and how their number is."""

    kind: type[SceneWarning]
    counted: str | None
    paths: set[str]
