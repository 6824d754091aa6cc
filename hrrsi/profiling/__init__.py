"""Profiling: what a network costs, by count and by clock."""
