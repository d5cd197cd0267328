"""The node beside the PACS: radiographs arrive by C-STORE, and answers go back by C-STORE."""
