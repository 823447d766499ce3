"""A run's metrics as tables, on the page and in the terminal, and the timing of networks."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from rich import table as rich_table

from cdnv2_jax.report.page import Section, Table


def milliseconds_per_call(
    functions: Mapping[str, Callable[[], Any]], *, rounds: int = 15, seconds: float = 10.0
) -> dict[str, list[float]]:
    """Time functions in turn (A B A B …), so that drift affects all alike; return milliseconds of each call.

    Args:
      functions: name → a function that returns JAX arrays, or anything that is finished on return.
      rounds: timed calls of each, after an untimed one that compiles.
      seconds: time after which no further round starts, once three are done.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= 3 and time.perf_counter() > end:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def median_milliseconds(times: Mapping[str, list[float]], images: int) -> dict[str, float]:
    """Return median milliseconds per image of `milliseconds_per_call`'s result, for calls on `images` images."""
    return {name: statistics.median(values) / images for name, values in times.items()}


WEIGHTS = ("EMA", "live")
"""Names of a run's weights: averaged over its steps, and as they are."""


def comparison_table(summary: Mapping[str, Any], forms: Sequence[str], rows: Sequence[str]) -> rich_table.Table:
    """Make the terminal table of one form, or of masked and condensed side by side, and of the weights not kept.

    Args:
      summary: the run's summary.
      forms: the forms, as the summary's keys.
      rows: the figures.
    """
    caption = [f"{summary['stages_passed']} condensation stages passed"] if "stages_passed" in summary else []
    if "max_logit_difference" in summary:
        caption.insert(0, f"largest difference of logits {summary['max_logit_difference']:.1e}")
    table = rich_table.Table(
        title=f"{' and '.join(forms).capitalize()} network on the held-out images", caption=", ".join(caption) or None
    )
    columns = [
        *forms,
        *(weights for weights in WEIGHTS if weights in summary and weights != summary["weights"]),
    ]
    table.add_column("")
    for column in columns:
        table.add_column(named(column), justify="right")
    for row in rows:
        cells = [shown(row, summary[column][row]) if row in summary[column] else "" for column in columns]
        if any(cells):
            table.add_row(named(row), *cells)
    return table


PERCENT = ("accuracy", "top1", "top5")
NAMES = {
    "flops": "FLOPs (official count)",
    "params": "parameters (official count)",
    "multiply_adds": "multiply-adds (true)",
    "ms_per_image": "ms per image",
    "top1": "accuracy",
    "loss": "loss, nats",
    "top5": "top-5 accuracy",
    "APs": "AP, small objects",
    "APm": "AP, medium objects",
    "APl": "AP, large objects",
    "ARs": "AR, small objects",
    "ARm": "AR, medium objects",
    "ARl": "AR, large objects",
    "truncated": "images affected by a limit on candidates",
    "not_finite": "images with NaN or infinity",
    "max_logit_difference": "largest difference of logits, masked and condensed",
    "stages_passed": "condensation stages passed",
    "bytes_on_disk": "size on disk",
    "EMA": "averaged weights (EMA)",
    "live": "live weights",
}
COSTS = ("flops", "multiply_adds", "params", "bytes_on_disk", "ms_per_image")
"""Rows below the metrics, in this order."""

TWO_COUNTS = (
    "Official FLOPs and parameters, as in the papers, are equal for a masked network and its condensed form. The true "
    "multiply-adds are those of the layers as they are stored: a masked layer multiplies its zeros, too."
)


def figures_section(figures: Mapping[str, Any], text: Sequence[str]) -> Section:
    """Make the section of metrics: one table with a column per network, one with the remaining values.

    Args:
      figures: a run's summary.json, {"weights": "EMA", "masked": {"accuracy": …}, …, "live": {"accuracy": …}, …,
        "stages_passed": …}, or the same structure. The column of the weights that were kept is left out, because the
        other columns are of these.
      text: paragraphs before the tables.
    """
    kept = figures.get("weights")
    networks = {name: values for name, values in figures.items() if isinstance(values, Mapping)}
    columns = {name: values for name, values in networks.items() if name != kept}
    alone = {name: value for name, value in figures.items() if name not in (*networks, "weights")}
    tables = []
    if columns:
        keys = dict.fromkeys(key for values in columns.values() for key in values)
        rows = sorted(keys, key=lambda key: COSTS.index(key) if key in COSTS else -1)
        cells = [[named(key), *(shown(key, values.get(key, "")) for values in columns.values())] for key in rows]
        if kept is not None:
            cells.insert(0, ["weights", *(name if name in WEIGHTS else str(kept) for name in columns)])
        note = TWO_COUNTS if {"flops", "multiply_adds"} <= keys.keys() else ""
        head = ["not kept" if kept is not None and name in WEIGHTS else named(name) for name in columns]
        tables.append(Table("Networks", ("", *head), cells, note))
    if alone:
        tables.append(Table("Further figures", ("", "value"), [[named(k), shown(k, v)] for k, v in alone.items()]))
    return Section("figures", "Figures", text, tables)


def named(key: str) -> str:
    """Return the title of a metric or a column."""
    return NAMES.get(key, str(key))


def shown(key: str, value: Any) -> str:
    """Format a value; anything but a number is printed as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if key in PERCENT and math.isfinite(value):
        return f"{value:.2%}"
    if key == "bytes_on_disk":
        return f"{value / 1e6:,.2f} MB"
    if isinstance(value, int):
        return f"{value:,}"
    if value == -1:
        return "–"  # COCO's value where there are no objects
    return f"{value:.4g}"


def config_section(fields: Mapping[str, Any]) -> Section:
    """Make the section of all config fields, named as on the command line."""
    rows = [(f"config.{name}", str(value)) for name, value in fields.items()]
    return Section("config", "Config", tables=[Table("As it was used", ("field", "value"), rows)])
