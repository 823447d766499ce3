"""What the network learnt to connect."""

import dataclasses

import numpy as np

from cdnv2_jax.condensation.prune import sparsity, stages_passed
from cdnv2_jax.models.architecture import Architecture
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.report.connection_plots import draw_group_strips, draw_layer_map, draw_readers
from cdnv2_jax.report.connections import Connections, block_ends, layer_connections, layer_map, on_host
from cdnv2_jax.report.page import Drawing, Section
from cdnv2_jax.report.sections.drawing import drawing


@dataclasses.dataclass(frozen=True)
class Words:
    """What the two kinds of learned convolutions are called and do.

    Attributes:
      key: of ids on the page. kind: of convolution. does, done: what its groups do with channels, "read". meaning: of
        the first picture, in a sentence.
    """

    key: str
    kind: str
    does: str
    done: str
    meaning: str


LGC = Words(
    "lgc",
    "learned group convolution",
    "read",
    "read",
    "Who reads whose features (figure 7(d) of the CondenseNetV2 paper): mean absolute weight on the row's features in "
    "the column's learned group convolution",
)
SFR = Words(
    "sfr",
    "sparse feature reactivation",
    "update",
    "updated",
    "Who updates whose features: mean absolute weight with which the column's new features are added to the row's old "
    "ones, by sparse feature reactivation",
)


def connections_section(network: CondenseNet) -> Section:
    """Heat maps between layers, and which group has to do with which channels; masked or condensed.

    Raises:
      UserError: a condensed network's index is broken.
    """
    layers, a = layer_connections(network), network.architecture
    kinds = [_drawings(LGC, a, [layer.lgc for layer in layers])]
    if reactivations := [layer.sfr for layer in layers if layer.sfr is not None]:
        kinds.append(_drawings(SFR, a, reactivations))
    # The same picture of both kinds, side by side.
    drawings = [each for pair in zip(*kinds, strict=True) for each in pair]
    return Section("connections", "Connections", [_state(network)], drawings=drawings)


def _state(network: CondenseNet) -> str:
    form = f"{network.name}, {network.form_name}, {len(network.architecture.dense_layers())} dense layers"
    if network.form.condensed:
        return f"{form}."
    seen, last = on_host(network), network.architecture.condensation_stages
    return (
        f"{form}, {stages_passed(seen)} of {last} condensation stages passed, {float(sparsity(seen)):.1%} of the "
        f"learned 1×1 weights removed."
    )


def _drawings(words: Words, a: Architecture, convs: list[Connections]) -> list[Drawing]:
    values, masks = layer_map(a, [conv.per_channel for conv in convs]), [conv.kept for conv in convs]
    unused = np.mean(np.concatenate([~mask.any(0) for mask in masks]))
    nearest = np.mean([np.nanargmax(values[:, column]) == column for column in range(len(values))])
    return [
        drawing(
            lambda figure: draw_layer_map(
                figure, values, block_ends(a), columns=f"dense layer that {words.does}s", rows="features of"
            ),
            key=f"{words.key}-map",
            height=4.4,
            label=f"Heat map of {words.kind} between {len(convs)} layers: {nearest:.0%} of them have most to do with "
            f"the features just before them.",
            caption=f"{words.meaning}; each column divided by its largest. Dashed: ends of blocks.",
        ),
        drawing(
            lambda figure: draw_group_strips(figure, masks, channels=f"channel that may be {words.done}"),
            key=f"{words.key}-groups",
            height=min(1.2 + 0.22 * len(masks), 6.5),
            label=f"For each of {len(masks)} layers, which of its {len(masks[0])} groups {words.does} which channels.",
            caption=f"Which group may {words.does} which channels: one strip for each layer, one row for each of its "
            f"groups, strong where there is a connection. The oldest channels, the stem's, are on the left.",
        ),
        drawing(
            lambda figure: draw_readers(figure, masks, verb=words.done),
            key=f"{words.key}-readers",
            height=3.2,
            label=f"By how many groups of each layer channels are {words.done}: {unused:.0%} of all by none.",
            caption=f"By how many groups of a layer its channels are {words.done}; grey by none, which does not keep "
            f"later layers from it.",
        ),
    ]
