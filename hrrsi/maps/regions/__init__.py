"""Regions of a class map, strip by strip: runs, the sieve, outlines and polygons."""
