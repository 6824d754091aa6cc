"""Looks at a scene before it is mapped: full brightness, and what is unlike training."""

from __future__ import annotations

import math
import warnings
from typing import Literal

from hrrsi.errors import InputError, OptionError
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.scenes.likeness import QUANTILE, Likeness, scene_squares
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.value_scale import (
    SceneSample,
    declared_scale,
    estimated_scale,
    heights_unlike_training,
    same_values,
    scene_sample,
    unlike_training,
)
from hrrsi.scenes.window_source import WindowSource, nearest_resolution

_RESOLUTION_FACTOR = 1.5
_SAME_SCALE = 1e-3  # 1/255 is a scale of 0.00392 to some


class SceneWarning(UserWarning):
    """Something about a scene that may make its map worse; the map is made all the same."""


class ResolutionWarning(SceneWarning):
    """A scene's ground resolution is far from the one that the weights were trained on."""


class ResolutionNotice(SceneWarning):
    """A scene is read at another ground resolution than its own, or at an unknown one."""


class ScaleWarning(SceneWarning):
    """The value of full brightness was estimated, or is another one than in training."""


class BandWarning(SceneWarning):
    """The bands that the network sees may not be those that it was trained on."""


class UnlikeTrainingWarning(SceneWarning):
    """A scene's bands or heights are unlike those that the weights were trained on."""


class HeightWarning(SceneWarning):
    """Some pixels of a scene have no height."""


class SceneChecks:
    """Looks at scenes, one after the other, and warns of each thing once.

    Args:
        meta: What the weights say of themselves.
    """

    def __init__(self, meta: ModelMeta) -> None:
        self._meta = meta
        self._warned: set[object] = set()
        likeness = meta.likeness
        self._likeness = None if likeness is None else Likeness.from_plain(likeness)
        self._resampled = 0
        self._unlike = 0

    def scale(self, scene: Scene, user_scale: float | None) -> float:
        """Return the value of full brightness, and warn where values look out of place.

        It is what the user says; for scenes of the weights' type what the scene declares, else the
        weights' own; for others an estimate.

        Args:
            scene: The scene; nobody else may read it meanwhile.
            user_scale: The value that the user says, or None.

        Raises:
            InputError: The scene can't be read somewhere, or no pixel of it has a height.
        """
        meta = self._meta
        sample = scene_sample(scene)
        scale = user_scale
        if scale is None and same_values(scene.dtype, meta.dtype):
            scale = self._own_scale(scene)
        if scale is None:
            scale, reason = estimated_scale(sample)
            self._warn(
                ScaleWarning,
                f"{scene.path}: holds {scene.dtype} where the weights were trained on "
                f"{meta['dtype']}; {scale:g} counts as full brightness ({reason}), "
                "unless `scale` says otherwise",
                once_for=scale,  # another estimate is news
            )
        unlike = unlike_training(sample, scale, meta.mean, meta.std)
        if unlike is not None:
            self._warn(UnlikeTrainingWarning, f"{scene.path}: {unlike}")
        if scene.height_model is not None:
            self._compare_heights(scene.height_model.path, sample)
        return scale

    def compare_likeness(self, source: WindowSource, scale: float) -> float | None:
        """Warn where a scene is unlike all training patches, as far as weights know these.

        Args:
            source: What the network sees of the scene; nobody else may read it meanwhile.
            scale: The value of full brightness.

        Returns:
            How many times as far it is from them as 99 % of them are within (above 1 it warns);
            None where that can't be said.

        Raises:
            InputError: The scene can't be read somewhere.
        """
        if self._likeness is None:
            return None
        squares = scene_squares(source, scale)
        if not len(squares):
            return None
        distance, threshold = self._likeness.distance(squares), self._likeness.threshold
        if distance > threshold:
            self._unlike += 1
            self._warn(
                UnlikeTrainingWarning,
                f"{source.path}: looks unlike anything the weights were trained on (distance "
                f"{distance:.2g}, {QUANTILE:.0%} of training patches are below {threshold:.2g}); "
                "check the map before you use it",
                once_for="likeness",
            )
        return distance / threshold

    def compare_bands(self, scene: Scene) -> None:
        """Warn where the bands that are read unasked may be others than those of training."""
        alphas, count, bands = scene.reader.alpha_bands, scene.dataset.count, list(scene.bands)
        listed = ",".join(map(str, bands))
        alpha = sorted(set(alphas) & set(bands))
        if alpha:
            self._warn(
                BandWarning,
                f"{scene.path}: calls band {alpha[0]} alpha, which is read as imagery since the "
                f"weights were trained on bands {listed}; choose others with `bands` if it marks "
                "missing data",
            )
        # the first bands may be all that the scenes of training had
        elif bands == list(range(1, len(bands) + 1)) and count - len(alphas) > len(bands):
            self._warn(
                BandWarning,
                f"{scene.path}: bands {listed} of {count} are read, as in training; choose "
                "others with `bands` if these show something else",
            )

    def reading_resolution(
        self, path: str, own: float | None, resample: float | Literal["auto", "off"]
    ) -> float | None:
        """Return the ground resolution to read pixels at, or None for their own.

        Says where it chooses one, for the first scene; `count_scenes` says how often.

        Args:
            path: What messages call the pixels.
            own: Metres per pixel, or None where they are not known.
            resample: As in `MapOptions`.
        """
        if resample == "off":
            return None
        if resample != "auto":
            return resample
        meta = self._meta
        if meta.resolutions is None:
            return None
        if own is None:
            self._warn(
                ResolutionNotice,
                f"{path}: is read as it is, since its ground resolution is not known; the weights "
                f"were trained on {meta.resolutions_text} a pixel",
                once_for="unknown",
            )
            return None
        nearest = nearest_resolution(own, meta.resolutions)
        if nearest is not None:
            self._resampled += 1
            self._warn(
                ResolutionNotice,
                f"{path}: read at {nearest:.3g} m, since the weights were trained on "
                f"{meta.resolutions_text}; `resample=off` reads the scene's own {own:.3g} m",
            )
        return nearest

    def count_scenes(self, scenes: int) -> None:
        """Say how many scenes were read at another resolution, and how many are unlike training.

        Args:
            scenes: How many were looked at.
        """
        for count, kind, what in (
            (self._resampled, ResolutionNotice, "read at a resolution of the weights' training"),
            (self._unlike, UnlikeTrainingWarning, "unlike anything the weights were trained on"),
        ):
            if count > 1:
                self._warn(kind, f"{count} of {scenes} scenes: {what}", once_for="count")

    def compare_resolution(self, scene: Scene, reading: float | None = None) -> None:
        """Warn where the ground resolution that a scene is read at is far from that of training.

        Args:
            scene: The scene.
            reading: Metres per pixel at which it is read; None: its own.
        """
        meta = self._meta
        trained = meta.resolutions or (meta.resolution and (meta.resolution, meta.resolution))
        there = reading or scene.resolution
        if not trained or there is None:
            return
        nearest = min(max(there, trained[0]), trained[1])
        if max(nearest / there, there / nearest) <= _RESOLUTION_FACTOR:
            return
        if reading is not None:
            advice = ""
        elif meta.resolutions is None:
            advice = f", or map it with `resample={nearest:.4g}`"
        else:  # too coarse, or read so by wish
            is_possible = nearest_resolution(there, meta.resolutions) is not None
            advice = ", or map it with `resample=auto`" if is_possible else ""
        verb = "has" if reading is None else "is read at"
        own = f"{there * 100:.3g} cm"
        trained_on = (
            f"{nearest * 100:.3g} cm" if meta.resolutions is None else meta.resolutions_text
        )
        self._warn(
            ResolutionWarning,
            f"{scene.path}: {verb} {own} a pixel where the weights were trained on {trained_on}; "
            f"expect worse maps{advice}",
        )

    def _own_scale(self, scene: Scene) -> float:
        """Return full brightness by a scene's own word, else the weights', and say which differ."""
        trained = self._meta.scale
        declared = declared_scale(scene)
        if declared is None or math.isclose(declared.value, trained, rel_tol=_SAME_SCALE):
            return trained
        value, reason = declared
        self._warn(
            ScaleWarning,
            f"{scene.path}: {value:g} counts as full brightness ({reason}) where the weights were "
            f"trained with {trained:g}, unless `scale` says otherwise",
            once_for=value,
        )
        return value

    def _compare_heights(self, path: str, sample: SceneSample) -> None:
        """Warn where heights are missing or look out of place."""
        meta = self._meta
        if sample.without_height == 1:
            raise InputError(
                "holds no height where the scene has data",
                where=path,
                fix="name the scene's own height model, and check its CRS and nodata value",
            )
        if sample.without_height:
            share = max(sample.without_height, 0.0001)
            self._warn(
                HeightWarning,
                f"{path}: about {share:.2%} of the scene's pixels have no height, and so no class "
                "in the map",
                once_for=path,
            )
        unlike = heights_unlike_training(sample, meta.scale, meta.mean[-1], meta.std[-1])
        if unlike is not None:
            self._warn(UnlikeTrainingWarning, f"{path}: {unlike}", once_for="heights")

    def _warn(
        self, kind: type[SceneWarning], message: str, once_for: float | str | None = None
    ) -> None:
        if (kind, once_for) not in self._warned:
            self._warned.add((kind, once_for))
            warnings.warn(message, kind, stacklevel=2)


def require_height_as_trained(meta: ModelMeta, height: str | None) -> None:
    """Raise unless a height model is given where weights see one, and only there.

    Args:
        meta: What the weights say of themselves.
        height: Where height models come from, or None.

    Raises:
        OptionError: One is missing, or one too many.
    """
    if meta.height and height is None:
        raise OptionError(
            "the weights see a height model as their last band",
            fix="name it with `height`: a raster, a folder, or a template such as 'dsm/dsm_{}.tif'",
        )
    if height is not None and not meta.height:
        raise OptionError(
            "the weights see no height model",
            parameter="height",
            fix="leave it out, or give weights that were trained on heights",
        ).at(f"`height={height}`")
