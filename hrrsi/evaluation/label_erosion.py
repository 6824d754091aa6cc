"""Labels whose class borders are taken out, as the ISPRS benchmark does."""

import numpy as np
import numpy.typing as npt

from hrrsi.evaluation.nearby_classes import near_other_class
from hrrsi.labels.scheme import IGNORE_INDEX

EROSION_RADIUS = 3  # of the ISPRS benchmark's eroded reference


def eroded_labels(
    labels: npt.NDArray[np.uint8], classes: int, radius: int = EROSION_RADIUS
) -> npt.NDArray[np.uint8]:
    """Return labels that are ignored wherever a disc around the pixel holds another class.

    So the border between two classes is ignored on both of its sides. Where a class meets pixels
    without a label, or the end of the array, it is not known to end and stays as it is.

    Args:
        labels: (rows, width) class indices, 255 where ignored; for the rows of a strip to be right,
            `radius` more on either side.
        classes: Number of classes.
        radius: Of the disc, in pixels; 3 in the ISPRS benchmark.

    Returns:
        (rows, width) uint8.
    """
    eroded = labels.copy()
    eroded[near_other_class(labels, classes, radius)] = IGNORE_INDEX
    return eroded
