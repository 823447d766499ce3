"""Published networks on one picture, error over cost, and one's own beside them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cdnv2_jax.report.inline_svg import INK

ABOVE, BELOW = (4, 4), (-4, -10)
FAMILIES = (
    ("cdnv2_cifar_", "CondenseNetV2", "#cc6677", BELOW),
    ("cdnv2_", "CondenseNetV2", "#cc6677", BELOW),
    ("condensenet_imagenet_74_", "CondenseNet (v1)", "#4477aa", ABOVE),
    ("condensenet_", "CondenseNet (v1)", "#4477aa", ABOVE),
    ("shufflenet_v2_x", "ShuffleNetV2", "#228833", BELOW),
    ("mobilenet_v2_x", "MobileNetV2", "#aa8800", ABOVE),
)
"""Beginning of a network's name, its family, and that family's colour and where its labels go, in points."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A network on the picture.

    Attributes:
      name: in the registry. millions: of FLOPs, as published. value: its published figure, per cent.
      flops, params: as printed. source: who reported them.
    """

    name: str
    millions: float
    value: float
    flops: str
    params: str
    source: str


def millions_of(printed: str) -> float:
    """46.0 of "46M"; ValueError for anything else."""
    if not printed.endswith("M"):
        raise ValueError(f"{printed!r} is no number of millions")
    return float(printed.removesuffix("M"))


def draw_published(
    figure: Any, points: Sequence[Point], *, figure_name: str, own: tuple[float, float | None] | None
) -> None:
    """A figure over multiply-adds, the latter on a logarithmic scale.

    Args:
      points: one at least.
      figure_name: what `Point.value` is, for the axis.
      own: (millions of FLOPs, the same figure or None where it was not measured) of one's own network.
    """
    from matplotlib.ticker import LogLocator

    axes = figure.subplots()
    seen = set()
    for point in points:
        prefix, family, colour, offset = next(entry for entry in FAMILIES if point.name.startswith(entry[0]))
        label = None if family in seen else family
        seen.add(family)
        axes.plot(point.millions, point.value, "o", color=colour, ms=5, label=label, ls="none")
        name, side = point.name.removeprefix(prefix).replace("_", "."), "left" if offset == ABOVE else "right"
        axes.annotate(name, (point.millions, point.value), offset, textcoords="offset points", ha=side, fontsize=8)
    if own is not None and own[1] is None:
        axes.axvline(own[0], color=INK, ls="--", lw=1, label="this network")
    elif own is not None:
        axes.plot(*own, "*", color=INK, ms=12, label="this network", ls="none")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set(xlabel="FLOPs (official count), millions", ylabel=figure_name)
    axes.margins(0.12)
    axes.grid(alpha=0.2)
    figure.legend(loc="outside upper center", ncols=2)
