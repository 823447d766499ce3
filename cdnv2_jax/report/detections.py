"""Draw detections on their images."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cdnv2_jax.errors import cut
from cdnv2_jax.files import replacing
from cdnv2_jax.report.page import Photograph, Section, image_uri
from cdnv2_jax.terminal import escaped

TRUTH = (255, 255, 255)
GOLDEN = 0.618033988749895
"""Steps around the hue circle by the golden ratio keep consecutive classes apart, however many there are."""

FONT_PIXELS = 13
LONGEST_NAME = 40  # characters of a class
GAP = 8  # pixels between the pictures of a sheet


def class_colour(label: int) -> tuple[int, int, int]:
    """Return the colour of a class, the same in every picture; bright enough for black text."""
    hue, light = label * GOLDEN % 1, (0.62, 0.72)[label % 2]
    red, green, blue = colorsys.hls_to_rgb(hue, light, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    class_names: Sequence[str] | Mapping[int, str],
    *,
    truth: tuple[np.ndarray, np.ndarray] | None = None,
    enlarge: int = 1,
    thickness: int = 2,
) -> np.ndarray:
    """Draw a box, name and score for every detection, the best on top.

    Args:
      image: uint8 [h, w, 3].
      boxes: [n, 4], x1, y1, x2, y2 in pixels of the image.
      labels: integers [n].
      scores: [n] in [0, 1], printed in per cent; None for names alone.
      class_names: by label.
      truth: boxes [m, 4] and labels [m] of the ground truth, drawn underneath as thin white boxes.
      enlarge: integer scale of the picture, so that text is legible on small images.
      thickness: of the boxes' lines in pixels; text is in proportion.

    Returns:
      uint8 [h · enlarge, w · enlarge, 3].
    """
    height, width = image.shape[:2]
    picture = Image.fromarray(image).resize((width * enlarge, height * enlarge), Image.Resampling.BICUBIC)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_PIXELS * thickness / 2)
    for box in () if truth is None else np.asarray(truth[0]) * enlarge:
        _frame(draw, box, TRUTH, 1)
    order = range(len(boxes)) if scores is None else np.argsort(scores, kind="stable").tolist()
    for index in order:
        label, box = int(labels[index]), np.asarray(boxes[index], np.float64) * enlarge
        text = cut(escaped(class_names[label]), LONGEST_NAME)
        text += "" if scores is None else f" {100 * float(scores[index]):.0f}"
        colour = class_colour(label)
        _frame(draw, box, colour, thickness)
        _name(draw, box, text, colour, font, picture.size)
    return np.array(picture)


def detections_sheet(pictures: Sequence[np.ndarray], path: Path, *, columns: int = 3) -> Path:
    """Write pictures as a grid into one PNG, in cells as large as the largest of them.

    Args:
      pictures: uint8 [h, w, 3] each, of any size; at least one.
      path: path of the PNG, which is returned.
      columns: pictures per row.

    Raises:
      UserError: the file cannot be written.
    """
    if not pictures:
        raise ValueError("a sheet needs at least one picture")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = np.max([picture.shape[:2] for picture in pictures], axis=0).tolist()
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    with replacing(path) as scratch:
        Image.fromarray(sheet).save(scratch, "png")
    return path


def _frame(draw: ImageDraw.ImageDraw, box: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    left, top, right, bottom = (round(float(side)) for side in box)
    draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=thickness)


def _name(
    draw: ImageDraw.ImageDraw,
    box: np.ndarray,
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Draw a label above the box or, where there is no room, inside it; always within the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = int(right - left) + 5, int(bottom - top) + 5
    x = min(max(round(float(box[0])), 0), max(size[0] - width, 0))
    y = round(float(box[1])) - height
    y = min(y if y >= 0 else max(round(float(box[1])), 0), max(size[1] - height, 0))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    draw.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0), font=font)


LONGEST_SIDE = 640


def detections_section(pictures: Sequence[np.ndarray], notes: Sequence[str]) -> Section:
    """Make the section with pictures from `draw_detections`, uint8 [h, w, 3] each, and `notes` as paragraphs."""
    label = "Held-out image {} with labelled boxes of the detections, the ground truth in white."
    photographs = [
        Photograph(image_uri(pixels, longest=LONGEST_SIDE), label.format(number), f"Held-out image {number}")
        for number, pixels in enumerate(pictures, start=1)
    ]
    above = "Coloured boxes are detections with their scores in per cent; white boxes are the ground truth."
    return Section("detections", "Detections", notes, photographs=photographs, above_photographs=above)
