"""Inference: a bundle and a study become a prediction."""
