"""Whether weights see a height model, and whether they get one."""

from __future__ import annotations

from hrrsi.errors import HrrsiError
from hrrsi.weights_file import ModelMeta


def image_bands(meta: ModelMeta) -> int:
    """Return how many bands of scenes weights see, without the heights."""
    return len(meta["mean"]) - bool(meta.get("height"))


def require_height_as_trained(meta: ModelMeta, height: str | None) -> None:
    """Raise unless a height model is given where weights see one, and only there.

    Args:
        meta: What the weights say of themselves.
        height: What `--height` says, or None.

    Raises:
        HrrsiError: One is missing, or one too many.
    """
    if meta.get("height") and height is None:
        raise HrrsiError(
            "the weights see a height model as their last band",
            fix="name it with --height: a raster, a folder, or a template such as 'dsm/dsm_{}.tif'",
        )
    if height is not None and not meta.get("height"):
        raise HrrsiError(
            "the weights see no height model",
            where=f"--height {height}",
            fix="leave it out, or give weights that were trained on heights",
        )
