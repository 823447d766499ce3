"""A network beside published ones."""

from collections.abc import Sequence

from cdnv2_jax.models.registry import MODELS
from cdnv2_jax.report.page import Section, Table
from cdnv2_jax.report.published_plot import Point, draw_published, millions_of
from cdnv2_jax.report.sections.drawing import drawing

QUOTED = "Published figures, quoted from their sources, not reproduced here."


def classifier_points(data_set: str) -> list[Point]:
    """The registry's networks with a published top-1 error on a data set ("imagenet", "cifar10" or "cifar100")."""
    found = []
    for name, entry in MODELS.items():
        p = entry.published
        if p is not None and data_set in p.top1_error:
            # Theirs is the figure; ours of that name is a reconstruction.
            source = f"{p.source}, which does not say its configuration" if entry.reconstruction else p.source
            found.append(Point(name, millions_of(p.flops), p.top1_error[data_set], p.flops, p.params, source))
    return found


def backbone_points(published_map: dict[str, float], source: str) -> list[Point]:
    """Backbones with a published mAP of a detector on them; FLOPs are the backbone's as a classifier."""
    found = []
    for name, value in published_map.items():
        p = MODELS[name].published
        if p is not None:
            found.append(Point(name, millions_of(p.flops), value, p.flops, p.params, source))
    return found


def published_section(
    points: Sequence[Point], *, where: str, figure_name: str, own: tuple[float, float | None]
) -> Section:
    """A picture and a table of published figures.

    Args:
      points: one at least.
      where: the data set's name. figure_name: what the figure is, such as "top-1 error, %".
      own: (millions of FLOPs, the figure or None where it was not measured) of one's own network.
    """
    own_text = "Its place by FLOPs alone is the dashed line: no figure of it was measured here."
    if own[1] is not None:
        own_text = f"The star is this network: {own[1]:.2f} at {own[0]:,.1f} million FLOPs, measured here."
    digits = max(len(f"{p.value:g}".partition(".")[2]) for p in points)
    rows = [(p.name, f"{p.value:.{digits}f}", p.flops, p.params, p.source) for p in points]
    return Section(
        "published",
        f"Beside published networks on {where}",
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
