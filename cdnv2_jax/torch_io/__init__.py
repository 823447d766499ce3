"""Official PyTorch checkpoints: safe reading, the map of keys, strict conversion both ways."""
