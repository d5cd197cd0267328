"""Retraining: from labelled studies to a challenger, a gate, and a version that serves."""
