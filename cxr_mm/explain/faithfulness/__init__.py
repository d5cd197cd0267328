"""Faithfulness: how faithful each method is, on held-out studies."""
