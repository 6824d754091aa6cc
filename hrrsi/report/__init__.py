"""The HTML report of an evaluation: one file that opens from disk, without a network."""
