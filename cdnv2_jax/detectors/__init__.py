"""Detectors: networks that find boxes, on any backbone with feature maps."""
