"""Training images: random crop, flip, RandAugment and erasing, drawn apart from being applied."""
