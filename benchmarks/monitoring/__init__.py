"""Monitoring: how often it is right, and what it costs."""
