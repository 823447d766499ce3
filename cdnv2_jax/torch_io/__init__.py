"""PyTorch checkpoints, the authors' and torchvision's: safe reading, the map of keys, strict conversion both ways."""
