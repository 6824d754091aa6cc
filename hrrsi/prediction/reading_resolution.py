"""At which ground resolution a network reads the pixels of a scene, and what there is to say."""

from __future__ import annotations

from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.options import Resample
from hrrsi.prediction.scene_remarks import ResolutionNotice, ResolutionWarning, SceneRemarks
from hrrsi.scenes.resampling import are_squares, nearest_resolution
from hrrsi.scenes.scene import Scene

_RESOLUTION_FACTOR = 1.5  # as far from that of training, maps are worse


class ReadingResolution:
    """Chooses at which ground resolution pixels are read, and says where it is not their own.

    Args:
        meta: What the weights say of themselves.
        resample: As in `MapOptions`.
        remarks: Says it.
    """

    def __init__(self, meta: ModelMeta, resample: Resample, remarks: SceneRemarks) -> None:
        self._meta = meta
        self._resample = resample
        self._remarks = remarks

    def of_scene(self, scene: Scene) -> float | None:
        """Return the metres per pixel to read a scene at, as squares, or None for its own pixels.

        Warns where it is far from that of training, and where pixels are stretched.
        """
        reading = self.of_pixels(scene.path, scene.resolution, scene.pixel_sides)
        self._compare_with_training(scene, reading)
        if reading is None:
            self._compare_shape(scene)
        return reading

    def of_pixels(
        self, path: str, own: float | None, sides: tuple[float, float] | None = None
    ) -> float | None:
        """Return the metres per pixel to read pixels at, as squares, or None for their own.

        Args:
            path: What messages call the pixels.
            own: Metres per pixel, or None where they are not known.
            sides: Metres from a pixel to the next column and to the next row, or None.
        """
        if self._resample == "off":
            return None
        if self._resample != "auto":
            return self._resample
        meta = self._meta
        square = None
        if own is not None and sides is not None and not are_squares(sides):
            square = nearest_resolution(own, meta.resolutions) or own
            self._remarks.warn(
                ResolutionNotice,
                path,
                f"has pixels of {sides[0]:.3g} x {sides[1]:.3g} m on the ground; read as squares "
                f"of {square:.3g} m; `resample=off` reads them as they are",
                once_for="shape",
                counted="pixels that are no squares on the ground",
            )
        if meta.resolutions is None:
            return square
        if own is None:
            self._remarks.warn(
                ResolutionNotice,
                path,
                f"is read as it is, since its ground resolution is not known; the weights "
                f"were trained on {meta.resolutions_text} a pixel",
                once_for="unknown",
            )
            return None
        nearest = nearest_resolution(own, meta.resolutions)
        if nearest is not None and own > nearest * _RESOLUTION_FACTOR:
            self._remarks.warn(
                ResolutionWarning,
                path,
                f"has {own:.3g} m a pixel where the weights were trained on "
                f"{meta.resolutions_text}; read at {nearest:.3g} m, which adds no detail: expect "
                "much worse maps",
                once_for="coarse",
                counted="pixels too coarse for the weights",
            )
        elif nearest is not None and square is None:
            self._remarks.warn(
                ResolutionNotice,
                path,
                f"read at {nearest:.3g} m, since the weights were trained on "
                f"{meta.resolutions_text}; `resample=off` reads the scene's own {own:.3g} m",
                counted="read at a resolution of the weights' training",
            )
        return square or nearest

    def _compare_with_training(self, scene: Scene, reading: float | None) -> None:
        """Warn where the resolution that a scene is read at is far from that of training."""
        meta = self._meta
        trained = meta.resolutions or (meta.resolution and (meta.resolution, meta.resolution))
        resolution = reading or scene.resolution
        if not trained or resolution is None:
            return
        nearest = min(max(resolution, trained[0]), trained[1])
        if max(nearest / resolution, resolution / nearest) <= _RESOLUTION_FACTOR:
            return
        if reading is not None:
            advice = ""
        elif meta.resolutions is None:
            advice = f", or map it with `resample={nearest:.4g}`"
        else:  # too coarse, or read so by wish
            is_possible = nearest_resolution(resolution, meta.resolutions) is not None
            advice = ", or map it with `resample=auto`" if is_possible else ""
        verb = "has" if reading is None else "is read at"
        own = f"{resolution * 100:.3g} cm"
        trained_on = (
            f"{nearest * 100:.3g} cm" if meta.resolutions is None else meta.resolutions_text
        )
        self._remarks.warn(
            ResolutionWarning,
            scene.path,
            f"{verb} {own} a pixel where the weights were trained on {trained_on}; "
            f"expect worse maps{advice}",
        )

    def _compare_shape(self, scene: Scene) -> None:
        """Warn where pixels that are no squares on the ground are read as they are."""
        sides = scene.pixel_sides
        if sides is None or are_squares(sides):
            return
        across, down = sides
        self._remarks.warn(
            ResolutionWarning,
            scene.path,
            f"has pixels of {across:.3g} x {down:.3g} m on the ground, which the network takes for "
            "squares: what it sees is stretched, so expect worse maps, or map it with "
            "`resample=auto`",
            once_for="shape",
            counted="pixels that are no squares on the ground",
        )
