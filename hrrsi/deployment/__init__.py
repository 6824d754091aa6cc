"""Deployment: networks for other programs, and for boards."""
