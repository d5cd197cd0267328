"""System: speed, memory, load and reproducibility."""
