"""Explanations: their speed and their faithfulness."""
