"""Prediction: windows of a scene become a class raster."""
