"""How a run went: loss and accuracy, what was pruned when, and what the pruning cost."""

from collections.abc import Sequence

from cdnv2_jax.report.connection_plots import draw_cuts
from cdnv2_jax.report.page import Section
from cdnv2_jax.report.plots import Record, draw_learning_curves, draw_sparsity, of_kind
from cdnv2_jax.report.sections.drawing import drawing

TOLD_KINDS = {1: ("LGC",), 2: ("LGC", "SFR")}
"""Learned convolutions in a dense layer → their kinds, in the order in which records list them."""


def learning_section(records: Sequence[Record], convs_per_layer: int | None) -> Section:
    """Curves of the records (see `RunLog`).

    Args:
      convs_per_layer: learned convolutions in each dense layer, 1 in a v1 and 2 in a v2; None where nobody knows.
    """
    stages, last = of_kind(records, "stage"), max((record["step"] for record in records), default=0)
    drawings = [
        drawing(
            lambda figure: draw_learning_curves(figure, records),
            key="curves",
            height=4.4,
            label=f"Curves of loss and of accuracy or AP over {last:,} steps, {len(stages)} stages marked.",
            caption="Of training batches and of the held-out images. Dashed, numbered: a condensation stage was "
            "passed; what the cut connections did has to be learnt again.",
        ),
        drawing(
            lambda figure: draw_sparsity(figure, records),
            key="sparsity",
            height=2.6,
            label=f"Staircase of the share of learned weights removed, in {len(stages)} steps.",
            caption="How many of the learned 1×1 weights were gone when.",
        ),
    ]
    told = [record for record in stages if record.get("cut_weight") and record.get("cut_connections")]
    if told and convs_per_layer in TOLD_KINDS:
        kinds = TOLD_KINDS[convs_per_layer] * (len(told[0]["cut_weight"]) // convs_per_layer)
        drawings.append(
            drawing(
                lambda figure: draw_cuts(figure, told, kinds),
                key="cuts",
                height=3.2,
                label="Share of connections and of absolute weight that each stage cut, a dot per learned convolution.",
                caption="Of what there was before each stage. Dots far below the dashed line: the network had "
                "made up its mind, and what was cut weighed little.",
            )
        )
    text = [] if records else ["Nothing has been recorded yet."]
    return Section("learning", "Learning", text, drawings=drawings)
