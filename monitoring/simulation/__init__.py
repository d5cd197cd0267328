"""Scenarios: simulated streams with a shift of known kind and size, and how monitoring does."""
