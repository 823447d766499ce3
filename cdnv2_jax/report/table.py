"""Tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def comparison_table(summary: Mapping[str, Any], multiply_adds: Mapping[str, int], batch_size: int) -> Table:
    """Masked beside condensed, or that alone: accuracy, FLOPs, parameters, time (of a run's summary)."""
    names = [name for name in ("masked", "condensed", "plain") if name in summary]
    compared = "masked" in summary
    if compared:
        title = "Masked and condensed network on the held-out images"
        caption = (
            f"largest difference of logits {summary['max_logit_difference']:.1e}, "
            f"{summary['stages_passed']} condensation stages passed"
        )
    else:
        title, caption = f"{names[0].capitalize()} network on the held-out images", None
    table = Table(title=title, caption=caption)
    rows = {
        "accuracy": lambda name: f"{summary[name]['accuracy']:.2%}",
        "FLOPs (official count)": lambda name: f"{summary[name]['flops']:,}",
        "multiply-adds (true)": lambda name: f"{multiply_adds[name]:,}",
        "parameters (official count)": lambda name: f"{summary[name]['params']:,}",
        f"ms per image (batch {batch_size})": lambda name: f"{summary[name]['ms_per_image']:.3f}",
    }
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for label, cell in rows.items():
        table.add_row(label, *map(cell, names))
    return table
