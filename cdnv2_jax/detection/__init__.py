"""Detectors on these backbones: Faster R-CNN and RetinaNet, on COCO or one's own images."""
