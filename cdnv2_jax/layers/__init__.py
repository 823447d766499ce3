"""Building blocks: feature maps are [batch, height, width, channels]."""
