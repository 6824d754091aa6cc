"""The segmentation networks. Nothing is imported here: names are known without torch."""
