"""Training: patches are augmented, batched, and fed to a network under the published recipe."""
