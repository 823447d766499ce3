"""Comparison of a network with published ones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cdnv2_jax.data.class_names import imagenet_classes, labels_in_network
from cdnv2_jax.networks.family import MODELS
from cdnv2_jax.networks.network import Architecture
from cdnv2_jax.report.page import INK, Section, Table, drawing

ABOVE, BELOW = (4, 4), (-4, -10)
SERIES = (
    ("cdnv2_cifar_", "CondenseNetV2", "#cc6677", BELOW),
    ("cdnv2_", "CondenseNetV2", "#cc6677", BELOW),
    ("condensenet_imagenet_74_", "CondenseNet (v1)", "#4477aa", ABOVE),
    ("condensenet_", "CondenseNet (v1)", "#4477aa", ABOVE),
    ("shufflenet_v2_x", "ShuffleNetV2", "#228833", BELOW),
    ("mobilenet_v2_x", "MobileNetV2", "#aa8800", ABOVE),
    ("", "registered by the user", INK, ABOVE),
)
"""Prefix of a network's name, its series, and the series' colour and label offset in points."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A network in the plot.

    Attributes:
      name: name in the registry.
      millions: millions of FLOPs, as published.
      value: published metric, in per cent.
      flops: FLOPs as printed in the source.
      params: parameters as printed in the source.
      source: where they were reported.
    """

    name: str
    millions: float
    value: float
    flops: str
    params: str
    source: str


def millions_of(printed: str) -> float:
    """Parse "46M" as 46.0; ValueError for anything else."""
    if not printed.endswith("M"):
        raise ValueError(f"{printed!r} is not a number of millions")
    return float(printed.removesuffix("M"))


def draw_published(
    figure: Any, points: Sequence[Point], *, figure_name: str, own: tuple[float, float | None] | None
) -> None:
    """Draw a metric over FLOPs, the latter on a logarithmic scale.

    Args:
      points: at least one.
      figure_name: name of the metric in `Point.value`, for the axis.
      own: (millions of FLOPs, the same metric or None if not measured) of the network to compare; None to leave it out.
    """
    from matplotlib.ticker import LogLocator

    axes = figure.subplots()
    seen = set()
    for point in points:
        prefix, family, colour, offset = next(entry for entry in SERIES if point.name.startswith(entry[0]))
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


NAMES = {"imagenet": "ImageNet", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
CLASSES = {"imagenet": 1000, "cifar10": 10, "cifar100": 100}


def published_data_set(source: str, class_names: Sequence[str]) -> str | None:
    """Return the data set in `NAMES` whose published metrics are comparable with those on a source, or None.

    ImageNet is known by its classes: WordNet ids, their words, or nothing but the numbers of 1,000 folders.
    """
    if source in ("digits", "synthetic"):
        return None
    if source in ("cifar10", "cifar100"):
        return source if len(class_names) == CLASSES[source] else None
    classes = imagenet_classes()
    found = labels_in_network(class_names, list(classes.values()), len(classes))
    return "imagenet" if len(found) == len(set(found) - {None}) == len(classes) else None


def data_set_of_published(name: str, architecture: Architecture) -> str | None:
    """Return the data set that a published network of exactly this architecture was measured on; None for any other."""
    entry = MODELS.get(name)
    if entry is None or entry.published is None:
        return None
    for data_set in entry.published.top1_error:
        if architecture == entry.architecture.override({"num_classes": CLASSES[data_set]}):
            return data_set
    return None


SOURCE = "CondenseNetV2 paper, table of detection results"

PUBLISHED: dict[str, dict[str, float]] = {
    "faster_rcnn": {
        "shufflenet_v2_x0_5": 22.1,
        "cdnv2_a": 23.5,
        "shufflenet_v2_x1_0": 27.4,
        "cdnv2_b": 27.9,
        "mobilenet_v2_x1_0": 30.6,
        "shufflenet_v2_x1_5": 30.2,
        "cdnv2_c": 31.4,
    },
    "retinanet": {"mobilenet_v2_x1_0": 29.7, "shufflenet_v2_x1_5": 29.1, "cdnv2_c": 31.7},
}
"""Detector → backbone → mAP in per cent. "MobileNet 1.0x, 300M" of the paper can only be MobileNetV2 1.0."""


def published_map(detector: str, backbone: str) -> float | None:
    """Return the mAP in per cent; None if the paper has none."""
    return PUBLISHED.get(detector, {}).get(backbone)


QUOTED = "Published figures, quoted from their sources, not reproduced here."


def classifier_points(data_set: str) -> list[Point]:
    """List the registry's networks with a published top-1 error on a data set ("imagenet", "cifar10" or "cifar100")."""
    found = []
    for name, entry in MODELS.items():
        p = entry.published
        if p is not None and data_set in p.top1_error:
            # The figure is the authors'; our network of that name is a reconstruction.
            source = f"{p.source}, which does not give its configuration" if entry.reconstruction else p.source
            found.append(Point(name, millions_of(p.flops), p.top1_error[data_set], p.flops, p.params, source))
    return found


def backbone_points(published_map: dict[str, float], source: str) -> list[Point]:
    """List backbones with a published mAP of a detector on them; FLOPs are those of the backbone as a classifier."""
    found = []
    for name, value in published_map.items():
        p = MODELS[name].published
        if p is not None:
            found.append(Point(name, millions_of(p.flops), value, p.flops, p.params, source))
    return found


def published_section(
    points: Sequence[Point], *, where: str, figure_name: str, own: tuple[float, float | None]
) -> Section:
    """Make the section with a plot and a table of published metrics.

    Args:
      points: at least one.
      where: name of the data set.
      figure_name: name of the metric, such as "top-1 error, %".
      own: (millions of FLOPs, the metric or None if not measured) of the network to compare.
    """
    own_text = "The dashed line marks this network's FLOPs; its metric was not measured here."
    if own[1] is not None:
        own_text = f"The star is this network: {own[1]:.2f} at {own[0]:,.1f} million FLOPs, measured here."
    digits = max(len(f"{p.value:g}".partition(".")[2]) for p in points)
    rows = [(p.name, f"{p.value:.{digits}f}", p.flops, p.params, p.source) for p in points]
    return Section(
        "published",
        f"Compared with published networks on {where}",
        [f"{QUOTED} {own_text}"],
        tables=[Table(f"Published on {where}", ("network", figure_name, "FLOPs", "parameters", "source"), rows)],
        drawings=[
            drawing(
                lambda figure: draw_published(figure, points, figure_name=figure_name, own=own),
                key="published-plot",
                height=3.8,
                label=f"{figure_name} over FLOPs of {len(points)} published networks on {where}, and this network.",
                caption="Numbers are the networks' depths or widths, letters their sizes, as in the table.",
            )
        ],
    )
