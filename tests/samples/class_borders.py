"""Made classes in patches of irregular shape, and naive scores of their borders."""

import numpy as np
from scipy import ndimage

CROSS = ndimage.generate_binary_structure(2, 1)


def disc(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


def blobs(seed, shape=(150, 170), classes=4, ignored=0.0):
    """Return class indices in patches of irregular shape, some of them ignored."""
    random = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(random.normal(size=shape), 6) for _ in range(classes)]
    labels = np.argmax(fields, axis=0).astype(np.uint8)
    holes = ndimage.gaussian_filter(random.normal(size=shape), 4)
    labels[holes > np.quantile(holes, 1 - ignored)] = 255
    return labels


def naive_boundary(prediction, truth, index, tolerance):
    """Return precision, recall and boundary IoU of a class, each as (part, whole)."""
    is_counted = (prediction != 255) & (truth != 255)

    def outline(labels):
        return (labels == index) & ndimage.binary_dilation(is_counted & (labels != index), CROSS)

    def rim(labels):
        others = is_counted & (labels != index)
        square = np.ones((2 * tolerance + 1,) * 2, dtype=bool)
        return is_counted & (labels == index) & ndimage.binary_dilation(others, square)

    p, t = outline(prediction) & is_counted, outline(truth) & is_counted
    near_t = ndimage.binary_dilation(t, disc(tolerance))
    near_p = ndimage.binary_dilation(p, disc(tolerance))
    p_rim, t_rim = rim(prediction), rim(truth)
    return (
        ((p & near_t).sum(), p.sum()),
        ((t & near_p).sum(), t.sum()),
        ((p_rim & t_rim).sum(), (p_rim | t_rim).sum()),
    )
