"""Pre-training of encoders by classification: a folder a class, two loaders, one result."""
