"""Synthetic studies: phantoms, clinical features and notes from a documented model."""
