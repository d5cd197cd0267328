"""Contracts: the typed shapes that every layer agrees on; pydantic and pandas only, no torch."""
