"""Images with boxes: sources, order and batches."""
