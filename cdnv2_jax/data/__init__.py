"""Images: sources, decoding, augmentation, preprocessing and batching."""
