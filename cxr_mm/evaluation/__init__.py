"""Evaluation: metrics with intervals over patients, plots, outside validation."""
