"""Images: where they come from, how they are decoded, augmented and prepared, and how they become batches."""
