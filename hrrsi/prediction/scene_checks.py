"""Looks at a scene before it is mapped: bands, full brightness, what is unlike training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hrrsi.errors import InputError, OptionError
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.scene_remarks import (
    BandNotice,
    BandWarning,
    HeightWarning,
    MissingDataNotice,
    MissingDataWarning,
    ScaleWarning,
    SceneRemarks,
    UnlikeTrainingWarning,
    ZonesWarning,
)
from hrrsi.scenes.bands import band_meanings, names_bands, unnamed_bands
from hrrsi.scenes.likeness import QUANTILE, Likeness, scene_squares
from hrrsi.scenes.missing_data import undeclared_gap
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.value_scale import (
    EstimatedScale,
    SceneSample,
    declared_scale,
    estimated_scale,
    heights_unlike_training,
    nominal_scale,
    same_values,
    scene_sample,
    unlike_training,
)
from hrrsi.scenes.window_source import WindowSource

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest

_SAME_SCALE = 1e-3  # 1/255 is a scale of 0.00392 to some


class SceneChecks:
    """Looks at the values and bands of scenes, one after the other.

    Args:
        meta: What the weights say of themselves.
        remarks: Says what there is to say of them.
    """

    def __init__(self, meta: ModelMeta, remarks: SceneRemarks) -> None:
        self._meta = meta
        self._remarks = remarks
        likeness = meta.likeness
        self._likeness = None if likeness is None else Likeness.from_plain(likeness)

    def needs_estimate(self, scene: Scene, user_scale: float | None) -> bool:
        """Return whether only a look at a scene's values tells which is full brightness."""
        has_scale = user_scale is not None or same_values(scene.dtype, self._meta.dtype)
        return not has_scale and nominal_scale(scene) is None

    def scale(
        self,
        scene: Scene,
        user_scale: float | None,
        estimate: EstimatedScale | None = None,
        area: AreaOfInterest | None = None,
    ) -> float:
        """Return the value of full brightness, and warn where values look out of place.

        It is what the user says; for scenes of the weights' type what the scene declares, else the
        weights' own; for others an estimate.

        Args:
            scene: The scene; nobody else may read it meanwhile.
            user_scale: The value that the user says, or None.
            estimate: The estimate of all scenes of its type, which counts instead of its own.
            area: Where it is looked at; None: all over.

        Raises:
            InputError: The scene can't be read somewhere, or no pixel of it has a height.
        """
        meta = self._meta
        self._compare_nodata(scene)
        sample = scene_sample(scene, self._missing_value(scene, area), area)
        if not sample.values.size and not sample.without_height:
            self._remarks.warn(
                MissingDataWarning,
                scene.path,
                "no pixel that was looked at holds data, so its map may be empty; check what marks "
                "missing data: its alpha, its mask or its nodata value",
                once_for="empty",
                counted="no pixel that was looked at holds data",
            )
        self._compare_offsets(scene)
        scale = user_scale
        if scale is None and same_values(scene.dtype, meta.dtype):
            scale = self._own_scale(scene)
        if scale is None:
            scale, reason = estimate or estimated_scale(sample)
            scope = "" if estimate is None else " in all scenes of this type"
            self._remarks.warn(
                ScaleWarning,
                scene.path,
                f"holds {scene.dtype} where the weights were trained on "
                f"{meta['dtype']}; {scale:g} counts as full brightness{scope} ({reason}), "
                "unless `scale` says otherwise",
                once_for=scale,  # another estimate is news
            )
        unlike = unlike_training(sample, scale, meta.mean, meta.std)
        if unlike is not None:
            self._remarks.warn(
                UnlikeTrainingWarning,
                scene.path,
                unlike,
                counted="values unlike those that the weights were trained on",
            )
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
            self._remarks.warn(
                UnlikeTrainingWarning,
                source.path,
                f"looks unlike anything the weights were trained on (distance "
                f"{distance:.2g}, {QUANTILE:.0%} of training patches are below {threshold:.2g}); "
                "check the map before you use it",
                once_for="likeness",
                counted="unlike anything the weights were trained on",
            )
        return distance / threshold

    def compare_bands(self, scene: Scene, *, unasked: bool = True) -> None:
        """Say which bands are read by a scene's own word, or may be others than those of training.

        Args:
            scene: The scene.
            unasked: Whether nobody has chosen its bands.
        """
        if scene.has_imagery_alpha:
            band = scene.reader.alpha_bands[0]
            self._remarks.warn(
                BandWarning,
                scene.path,
                f"calls band {band} alpha, but it holds as many values as imagery does (near "
                "infrared?), so it masks nothing; if it does, give it as a mask "
                f"(`gdal_translate -mask {band}`)",
                once_for="alpha",
                counted="an alpha with values of imagery masks nothing",
            )
        if not unasked:
            return
        if scene.is_palette_picture:
            self._remarks.warn(
                BandNotice,
                scene.path,
                "is a picture with a palette, read as its colours",
                once_for="palette",
                counted="read as the colours of a palette",
            )
        elif not self._compare_meanings(scene):
            self._compare_numbers(scene)

    def _missing_value(self, scene: Scene, area: AreaOfInterest | None) -> float | None:
        """Return the value of pixels that seem to hold no data, though nothing says so."""
        gap = undeclared_gap(scene, area)
        if gap is None:
            return None
        self._remarks.warn(
            MissingDataWarning,
            scene.path,
            f"{gap.share:.1%} of its pixels hold {gap.value:g} in all bands, at the rim or in "
            f"empty blocks, as if they had no data; they get a class unless `nodata={gap.value:g}` "
            "or `nodata=auto` is given",
            once_for="gap",
            counted="pixels that seem to hold no data get a class",
        )
        return gap.value

    def note_nodata(self, scene: Scene) -> None:
        """Say which value was found to mark pixels without data.

        Args:
            scene: The scene, opened with ``nodata="auto"``.
        """
        if scene.nodata is not None:
            self._remarks.warn(
                MissingDataNotice,
                scene.path,
                f"pixels of {scene.nodata:g} in all bands count as missing data, as `nodata=auto` "
                "found",
                once_for="found",
                counted="a value found that marks missing data",
            )

    def check_zones(self, scene: Scene, zones: str | Path, attribute: str | None) -> None:
        """Raise where zones can't be counted on a scene; warn where none of them lies on it.

        Args:
            scene: The open scene.
            zones: Their file.
            attribute: Their names.

        Raises:
            InputError: As `hrrsi.maps.zones.zone_areas`.
        """
        from hrrsi.maps.zones import has_zones_on  # polygons' libraries, seldom asked for

        if not has_zones_on(zones, scene, attribute):
            self._remarks.warn(
                ZonesWarning,
                scene.path,
                f"no zone of {zones} lies on it, so all of them are empty; check its CRS",
                once_for="zones",
                counted="no zone lies on them",
            )

    def _compare_nodata(self, scene: Scene) -> None:
        """Warn where no pixel can hold the value that is said to mark missing data."""
        kind = np.dtype(scene.dtype)
        if scene.nodata is None or kind.kind not in "iu":
            return
        limits = np.iinfo(kind)
        if limits.min <= scene.nodata <= limits.max and scene.nodata % 1 == 0:
            return
        self._remarks.warn(
            MissingDataWarning,
            scene.path,
            f"`nodata={scene.nodata:g}` is no value of {scene.dtype}, so it marks no pixel",
            once_for="impossible",
            counted="`nodata` is no value of their type",
        )

    def _compare_offsets(self, scene: Scene) -> None:
        """Warn of offsets that a scene declares for its values, which nothing adds to them."""
        offsets = [float(scene.dataset.offsets[band - 1]) for band in scene.bands]
        # scenes of training had theirs likewise
        if not any(offsets) or same_values(scene.dtype, self._meta.dtype):
            return
        listed = ", ".join(f"{offset:g}" for offset in dict.fromkeys(offsets))
        self._remarks.warn(
            ScaleWarning,
            scene.path,
            f"declares an offset of {listed} for its values, which is not added to them; where "
            "that is much, write them out with it (`gdal_translate -unscale -ot Float32`)",
            once_for="offset",
            counted="an offset of values that is not added",
        )

    def _compare_meanings(self, scene: Scene) -> bool:
        """Return whether a scene says what its bands show and the weights know what they want."""
        expected, bands = self._meta.input_meanings, list(scene.bands)
        if expected is None or not names_bands(scene.dataset):
            return False
        listed, own = ",".join(map(str, bands)), band_meanings(scene.dataset)
        shown = [own[band - 1] for band in bands]
        if None in shown:
            return False
        names = ", ".join(map(str, shown))
        if tuple(shown) != expected and None not in expected:
            self._remarks.warn(
                BandWarning,
                scene.path,
                f"calls bands {listed} {names} where the weights were trained on "
                f"{', '.join(map(str, expected))}; choose others with `bands`, or expect worse "
                "maps",
                once_for="meanings",
                counted="bands that the weights were not trained on",
            )
        elif bands != list(unnamed_bands(scene.dataset, self._meta.bands)):
            self._remarks.warn(
                BandNotice,
                scene.path,
                f"bands {listed} are read, which it calls {names}, as in training; `bands` "
                "chooses others",
                once_for="meanings",
                counted="bands read in the order that the scenes name",
            )
        return True

    def _compare_numbers(self, scene: Scene) -> None:
        alphas, count, bands = scene.reader.alpha_bands, scene.dataset.count, list(scene.bands)
        listed = ",".join(map(str, bands))
        alpha = sorted(set(alphas) & set(bands))
        if alpha:
            self._remarks.warn(
                BandWarning,
                scene.path,
                f"calls band {alpha[0]} alpha, which is read as imagery since the "
                f"weights were trained on bands {listed}; choose others with `bands` if it marks "
                "missing data",
            )
        # the first bands may be all that the scenes of training had
        elif bands == list(range(1, len(bands) + 1)) and count - len(alphas) > len(bands):
            self._remarks.warn(
                BandWarning,
                scene.path,
                f"bands {listed} of {count} are read, as in training; choose "
                "others with `bands` if these show something else",
            )

    def _own_scale(self, scene: Scene) -> float:
        """Return full brightness by a scene's own word, else the weights', and say which differ."""
        trained = self._meta.scale
        declared = declared_scale(scene)
        if declared is None or math.isclose(declared.value, trained, rel_tol=_SAME_SCALE):
            return trained
        value, reason = declared
        self._remarks.warn(
            ScaleWarning,
            scene.path,
            f"{value:g} counts as full brightness ({reason}) where the weights were "
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
            self._remarks.warn(
                HeightWarning,
                path,
                f"about {share:.2%} of the scene's pixels have no height, and so no class "
                "in the map",
                once_for=path,
            )
        unlike = heights_unlike_training(sample, meta.scale, meta.mean[-1], meta.std[-1])
        if unlike is not None:
            self._remarks.warn(UnlikeTrainingWarning, path, unlike, once_for="heights")


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
