"""Runs: what training and pre-training share, from the options to the folder that is left."""
