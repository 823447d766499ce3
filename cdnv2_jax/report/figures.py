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
        *(weights for weights in ("EMA", "live") if weights in summary and weights != summary["weights"]),
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
    "params": "parameters",
    "multiply_adds": "multiply-adds (true)",
    "ms_per_image": "ms per image",
    "loss": "loss, nats",
    "top5": "top-5 accuracy",
    "truncated": "images affected by a limit on candidates",
    "max_logit_difference": "largest difference of logits, masked and condensed",
    "stages_passed": "condensation stages passed",
    "bytes_on_disk": "size on disk",
    "EMA": "averaged weights (EMA)",
    "live": "live weights",
}


def figures_section(figures: Mapping[str, Any], text: list[str]) -> Section:
    """Make the section of metrics: one table with a column per network, one with the remaining values.

    Args:
      figures: a run's summary.json, {"masked": {"accuracy": …}, …, "stages_passed": …}, or the same structure.
      text: paragraphs before the tables.
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
