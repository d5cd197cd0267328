"""Accuracy: how well the models do, beside floors and baselines."""
