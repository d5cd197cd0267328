"""System: speed, memory, load, reproducibility and drift."""
