"""Pure functions for detection, usable without the models."""
