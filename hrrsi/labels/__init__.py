"""Labels: schemes, which label belongs to which scene, and class indices for any window."""
