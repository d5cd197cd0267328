"""Faithfulness: how far each method of explanation can be believed, on held-out studies."""
