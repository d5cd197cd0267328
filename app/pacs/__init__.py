"""The node beside the PACS: radiographs in, answers back to the archive."""
