"""Looks at a scene before it is mapped: full brightness, and what is unlike training."""

from __future__ import annotations

import math
import warnings

from hrrsi.errors import InputError, OptionError
from hrrsi.networks.model_meta import ModelMeta
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

_RESOLUTION_FACTOR = 1.5
_SAME_SCALE = 1e-3  # 1/255 is a scale of 0.00392 to some


class SceneWarning(UserWarning):
    """Something about a scene that may make its map worse; the map is made all the same."""


class ResolutionWarning(SceneWarning):
    """A scene's ground resolution is far from the one that the weights were trained on."""


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

    def compare_resolution(self, scene: Scene) -> None:
        """Warn where a scene's ground resolution is far from that of training."""
        trained_on, there = self._meta.resolution, scene.resolution
        if trained_on is None or there is None:
            return
        if max(trained_on / there, there / trained_on) > _RESOLUTION_FACTOR:
            self._warn(
                ResolutionWarning,
                f"{scene.path}: has {there * 100:.3g} cm a pixel where the weights were trained "
                f"on {trained_on * 100:.3g} cm; expect worse maps, or map it with `resample`",
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
