"""REST: predictions, explanations and feedback by plain HTTP, described by OpenAPI."""
