"""Layers. Feature maps are [batch, height, width, channels]."""
