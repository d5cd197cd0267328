"""Ways by which answers leave, besides plain C-STORE."""
