"""Running: which windows are due, one runner at a time, each report in a process of its own."""
