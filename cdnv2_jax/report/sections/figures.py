"""A run's or a network's figures as a table."""

import math
from collections.abc import Mapping
from typing import Any

from cdnv2_jax.report.page import Section, Table

PERCENT = ("accuracy", "top1", "top5")
NAMES = {
    "flops": "FLOPs (official count)",
    "params": "parameters",
    "multiply_adds": "multiply-adds (true)",
    "ms_per_image": "ms per image",
    "loss": "loss, nats",
    "top5": "top-5 accuracy",
    "truncated": "images cut short by a limit",
    "max_logit_difference": "largest difference of logits, masked and condensed",
    "stages_passed": "condensation stages passed",
    "live": "not averaged",
}


def figures_section(figures: Mapping[str, Any], text: list[str]) -> Section:
    """A table with a column for every entry that holds figures itself, and one with those that stand alone.

    Args:
      figures: of a run's summary.json, {"masked": {"accuracy": …}, …, "stages_passed": …}, or of the same form.
      text: paragraphs before them.
    """
    columns = {name: values for name, values in figures.items() if isinstance(values, Mapping)}
    alone = {name: value for name, value in figures.items() if name not in columns}
    tables = []
    if columns:
        rows = dict.fromkeys(key for values in columns.values() for key in values)
        cells = [[named(key), *(shown(key, values.get(key, "")) for values in columns.values())] for key in rows]
        tables.append(Table("Networks", ("", *map(named, columns)), cells))
    if alone:
        tables.append(Table("Further figures", ("", "value"), [[named(k), shown(k, v)] for k, v in alone.items()]))
    return Section("figures", "Figures", text, tables)


def named(key: str) -> str:
    """What a figure or a column is called, in words."""
    return NAMES.get(key, str(key))


def shown(key: str, value: Any) -> str:
    """A figure as it is printed; what is no number as it stands."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if key in PERCENT and math.isfinite(value):
        return f"{value:.2%}"
    if isinstance(value, int):
        return f"{value:,}"
    if value == -1:
        return "–"  # COCO's figure where there is nothing to find
    return f"{value:.4g}"
