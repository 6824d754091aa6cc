"""Scenes: rasters on disk, and where windows lie on them."""
