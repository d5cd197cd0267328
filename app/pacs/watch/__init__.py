"""The node watched: figures for Prometheus, and alerts for people."""
