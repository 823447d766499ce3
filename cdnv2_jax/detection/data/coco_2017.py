"""What COCO 2017 is: its categories and its held-out images. Published figures are for these alone."""

from cdnv2_jax.detection.data.annotations import DetectionSource

LISTED = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush
"""
NAMES = tuple(name.strip() for name in LISTED.split(","))
UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
IDS = tuple(number for number in range(1, 91) if number not in UNUSED_IDS)
"""Category ids, in the order of `NAMES`."""

VAL_IMAGES = 5000


def is_coco_val2017(source: DetectionSource) -> bool:
    """Whether a source is COCO's val2017: it has its categories with their ids, and as many images."""
    classes = tuple(source.class_names), tuple(source.category_ids)
    return classes == (NAMES, IDS) and len(source) == VAL_IMAGES
