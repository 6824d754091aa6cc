"""The windows that scenes are mapped with unless others are asked for."""

DEFAULT_WINDOW = 512


def default_overlap(window: int) -> int:
    """Return the pixels that windows of a size share: 96 of 512.

    It is the narrowest overlap that was tried at which label changes are no more frequent where
    windows meet than elsewhere (``benchmarks/window_seams.py``).
    """
    return window * 3 // 16
