"""Data sources, one file per kind; `open.py` lists them."""
