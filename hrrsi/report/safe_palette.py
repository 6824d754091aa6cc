"""Colours that colour-blind people can tell apart, near to those of a scheme."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hrrsi.labels.scheme import Colour

# Okabe and Ito 2008, "Color Universal Design"; a pale grey in the place of black, which stands for
# no class here.
_OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (225, 225, 225),
)


def safe_palette(colours: Sequence[Colour]) -> tuple[Colour, ...]:
    """Return a colour for each class that colour-blind people can tell from the others.

    Up to eight classes get the colours of Okabe and Ito, each as near to its own as the others
    allow; more get steps of cividis (Nuñez et al. 2018), which differ in lightness.

    Args:
        colours: The scheme's class colours.
    """
    if len(colours) > len(_OKABE_ITO):
        return _lightness_steps(len(colours))
    from scipy.optimize import linear_sum_assignment

    own, safe = np.asarray(colours, dtype=float), np.asarray(_OKABE_ITO, dtype=float)
    distances = np.linalg.norm(own[:, None] - safe[None], axis=2)
    _, chosen = linear_sum_assignment(distances)
    return tuple(_OKABE_ITO[index] for index in chosen)


def _lightness_steps(count: int) -> tuple[Colour, ...]:
    from matplotlib import colormaps

    steps = colormaps["cividis"](np.linspace(0.05, 1, count), bytes=True)[:, :3]
    return tuple((int(red), int(green), int(blue)) for red, green, blue in steps)
