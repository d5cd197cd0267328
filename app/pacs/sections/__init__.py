"""Sections of the node's file, each of one subject; `app.pacs.settings` is the whole."""
