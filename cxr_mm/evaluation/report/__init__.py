"""Reports of an evaluation: model card, plots, text."""
