"""Tiling: scenes and labels become patches, a tiled dataset."""
