"""How often each training patch comes: sampling that favours rare classes."""

import numpy as np
import numpy.typing as npt

from hrrsi.labels.scheme import IGNORE_INDEX
from hrrsi.progress import progress
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.tiling.patch_reading import read_label


def patch_weights(dataset: TiledDataset, *, quiet: bool = True) -> npt.NDArray[np.float64]:
    """Return the probability of each training patch under ``--sampling rare``.

    A pixel of a class weighs one over the square root of the class' frequency, and a patch the
    mean over its labelled pixels: patches of rare classes come more often, none never (the square
    root as in the sampling of Mahajan et al. 2018, "Exploring the Limits of Weakly Supervised
    Pretraining", section 2.2).

    Args:
        dataset: A tiled dataset; its training labels are read once, by each process, since
            processes can't tell each other anything before the training starts.
        quiet: No progress bar.

    Returns:
        (patches,) in the order of ``dataset.patches("train")``; they add up to 1.

    Raises:
        HrrsiError: A label can't be read.
    """
    description = dataset.description
    frequencies = np.asarray(description.class_frequencies, dtype=np.float64)
    worth = 1 / np.sqrt(np.maximum(frequencies, frequencies[frequencies > 0].min()))
    weights = []
    patches = dataset.patches("train")
    with progress("counting classes", len(patches), " patches", enabled=not quiet) as bar:
        for patch in patches:
            label = read_label(patch, description)
            counts = np.bincount(label[label != IGNORE_INDEX], minlength=len(worth))
            weights.append(float(counts @ worth) / max(1, int(counts.sum())))
            bar.update()
    # a patch without any label teaches nothing, but "never" is no probability to resume with
    found = np.maximum(weights, 1e-3 * max(weights))
    probabilities: npt.NDArray[np.float64] = found / found.sum()
    return probabilities
