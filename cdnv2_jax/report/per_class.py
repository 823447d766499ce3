"""How each class fared, as a table for spreadsheets."""

import csv
from collections.abc import Sequence
from pathlib import Path


def write_per_class(file: Path, names: Sequence[str], figures: Sequence[tuple[int, float, float]]) -> None:
    """Writes a CSV table: class, images, top1, top5 (in [0, 1], empty for classes without images).

    Args:
      file: to write.
      names: of the classes, by label.
      figures: (images, top-1, top-5) of each class, as `Evaluation.per_class` gives them.
    """
    with file.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["class", "images", "top1", "top5"])
        for name, (images, top1, top5) in zip(names, figures, strict=True):
            writer.writerow([name, images, *((f"{top1:.6f}", f"{top5:.6f}") if images else ("", ""))])
