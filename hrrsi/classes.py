"""What every room knows of classes: the index of pixels that have none."""

IGNORE_INDEX = 255
