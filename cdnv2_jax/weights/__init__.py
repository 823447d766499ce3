"""Weight files in every format, and the metadata stored in them."""
