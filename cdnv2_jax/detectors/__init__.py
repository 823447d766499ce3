"""Object detectors on any backbone with feature maps."""
