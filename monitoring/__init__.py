"""Monitoring: data drift and concept drift of logged predictions against the reference."""
