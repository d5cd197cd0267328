"""Long computations in parts, and the folder or object store that keeps the parts."""
