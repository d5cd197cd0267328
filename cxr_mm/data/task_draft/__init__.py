"""Draft of a task from the user's own table: what each column is, and the YAML of the task."""
