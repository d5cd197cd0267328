"""Python API: what `import cxr_mm` offers, over the same functions as the command line."""
