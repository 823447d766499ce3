"""PyTorch checkpoints of the networks' authors and of torchvision: safe reading, the map of keys, strict conversion both ways."""
