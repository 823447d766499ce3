"""Detection: experiments that train Faster R-CNN and RetinaNet, on COCO or on your own images."""
