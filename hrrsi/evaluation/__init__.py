"""Evaluation: predictions against labels, one confusion matrix, and what follows from it."""
