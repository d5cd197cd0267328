"""Imaging: one file becomes one radiograph."""
