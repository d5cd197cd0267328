"""Evaluation: metrics with intervals over patients, model card, external validation."""
