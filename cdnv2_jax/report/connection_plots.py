"""Plots of learned connections, each on a Matplotlib figure; `report/connections.py` describes the arrays."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdnv2_jax.layers.learned import on_host
from cdnv2_jax.networks.network import Network
from cdnv2_jax.pruning.prune import sparsity, stages_passed
from cdnv2_jax.report.connections import (
    Connections,
    connections_by_kind,
    layer_map,
    learned_layers,
    rescaled_columns,
    shares_by_readers,
)
from cdnv2_jax.report.page import INK, MUTED, Drawing, Section, drawing

HEAT = "#d9480f"
LGC_COLOUR, SFR_COLOUR = "#4477aa", "#228833"
READERS = ("none", "1", "2", "3", "4 or more")


def draw_layer_map(figure: Any, values: np.ndarray, block_ends: Sequence[int], *, columns: str, rows: str) -> None:
    """Draw the layers' connections as in the paper's figure 7(d): columns rescaled, dashed lines between blocks.

    Args:
      values: [L, L], see `layer_map`.
      block_ends: number of layers up to the end of each block except the last.
      columns, rows: axis labels.
    """
    layers = len(values)
    axes = figure.subplots()
    image = axes.imshow(rescaled_columns(values), cmap=_clear_to(HEAT), vmin=0, vmax=1, interpolation="none")
    for end in block_ends:
        # The first row is the stem, so a layer's row as a source is one below its column.
        axes.plot([end - 0.5, layers - 0.5], [end + 0.5] * 2, color=MUTED, ls="--", lw=0.8)
        axes.plot([end - 0.5] * 2, [-0.5, end + 0.5], color=MUTED, ls="--", lw=0.8)
    step = max(1, -(-layers // 9))
    ticks = np.arange(0, layers, step)
    axes.set_xticks(ticks, labels=[str(tick + 1) for tick in ticks])
    axes.set_yticks(ticks, labels=["stem" if tick == 0 else str(tick) for tick in ticks])
    axes.set(xlabel=columns, ylabel=rows, xlim=(-0.5, layers - 0.5), ylim=(layers - 0.5, -0.5))
    bar = figure.colorbar(image, ax=axes, shrink=0.6, ticks=[0, 0.5, 1], label="fraction of the maximum")
    bar.outline.set_edgecolor(MUTED)


def draw_group_strips(figure: Any, masks: Sequence[np.ndarray], *, channels: str, row_pixels: int = 4) -> None:
    """Draw one strip per dense layer with one row per group, coloured where the group reads a channel.

    Args:
      masks: boolean [G, n] of each layer.
      channels: what the n channels are.
      row_pixels: height of the raster's rows in pixels; columns are one pixel wide.
    """
    axes = figure.subplots()
    widest, gap = max(mask.shape[1] for mask in masks), row_pixels
    rows, middles, top = [], [], 0
    for mask in masks:
        strip = np.zeros((len(mask) * row_pixels + gap, widest))
        strip[: len(mask) * row_pixels, : mask.shape[1]] = np.repeat(0.15 + 0.85 * mask, row_pixels, axis=0)
        rows.append(strip)
        middles.append(top + (len(strip) - gap) / 2)
        top += len(strip)
    pixels, place = np.concatenate(rows), (0, widest, top, 0)
    axes.imshow(pixels, cmap=_clear_to(LGC_COLOUR), vmin=0, vmax=1, interpolation="none", aspect="auto", extent=place)
    step = max(1, -(-len(masks) // 18))
    axes.set_yticks(middles[::step], labels=[str(number + 1) for number in range(0, len(masks), step)])
    axes.set(xlabel=channels, ylabel="dense layer")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def draw_readers(figure: Any, masks: Sequence[np.ndarray], *, verb: str) -> None:
    """Draw for each dense layer the fraction of channels used by no group, one, two, three, and four or more.

    Args:
      masks: boolean [G, n] of each layer.
      verb: what groups do with channels, such as "read".
    """
    axes = figure.subplots()
    shares = [shares_by_readers(mask) for mask in masks]
    folded = np.array([[*np.pad(share, (0, 4))[:4], share[4:].sum()] for share in shares])
    layers, left = np.arange(1, len(masks) + 1), np.zeros(len(masks))
    for number, label in enumerate(READERS):
        strength = number / (len(READERS) - 1)
        style = {"color": LGC_COLOUR, "alpha": 0.2 + 0.8 * strength} if number else {"color": MUTED, "alpha": 0.25}
        axes.bar(layers, 100 * folded[:, number], bottom=left, width=0.85, label=label, lw=0, **style)
        left += 100 * folded[:, number]
    axes.set(xlabel="dense layer", ylabel=f"channels {verb}, %", ylim=(0, 100))
    axes.set_xticks(layers[:: max(1, -(-len(layers) // 12))])
    figure.legend(loc="outside upper center", ncols=len(READERS), title="by how many groups", handlelength=1)


def draw_cuts(figure: Any, stages: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> None:
    """Draw what each condensation stage removed: one dot per learned convolution, its fraction of absolute weight.

    Args:
      stages: records of kind "stage" with cut_connections and cut_weight.
      kinds: "LGC" or "SFR" for each of their entries.
    """
    axes = figure.subplots()
    numbers = np.arange(len(stages))
    for kind, colour, offset in (("LGC", LGC_COLOUR, -0.12), ("SFR", SFR_COLOUR, 0.12)):
        chosen = [position for position, each in enumerate(kinds) if each == kind]
        if not chosen:
            continue
        weights = np.array([[record["cut_weight"][position] for position in chosen] for record in stages], float)
        labels = [f"weight, {kind}"] + ["_"] * (len(chosen) - 1)
        axes.plot(numbers + offset, 100 * weights, "o", color=colour, ms=3, alpha=0.6, label=labels)
    whole = [float(np.mean(record["cut_connections"])) for record in stages]
    axes.plot(numbers, [100 * share for share in whole], color=INK, ls="--", lw=1, label="connections")
    axes.set_xticks(numbers, labels=[str(record["stage"]) for record in stages])
    axes.set(xlabel="stage", ylabel="removed, %", ylim=(0, None), title="Connections and weight removed")
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left")


def _clear_to(colour: str) -> Any:
    """Make a colour map from transparent to a colour, for light and dark backgrounds."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    return LinearSegmentedColormap.from_list(colour, [(*to_rgb(colour), 0.0), (*to_rgb(colour), 1.0)])


@dataclasses.dataclass(frozen=True)
class Words:
    """Wording for one kind of learned convolution.

    Attributes:
      key: prefix of ids on the page.
      kind: name of the kind of convolution.
      does: what its groups do with channels, such as "read".
      done: the same, as a participle.
      meaning: meaning of the heat map, in a sentence.
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
    "Which layer reads which features (figure 7(d) of the CondenseNetV2 paper): mean absolute weight on the row's in "
    "the column's learned group convolution",
)
SFR = Words(
    "sfr",
    "sparse feature reactivation",
    "update",
    "updated",
    "Which layer updates which features: mean absolute weight with which the column's new features are added to the "
    "row's old ones, by sparse feature reactivation",
)


def connections_section(network: Network) -> Section:
    """Make the section on connections, masked or condensed: groups and their channels, heat maps between dense layers.

    Raises:
      UserError: a condensed network's index is broken.
    """
    found = connections_by_kind(network)
    ends = np.cumsum(network.dense_blocks)[:-1].tolist() if network.dense_blocks else None
    kinds = [_drawings(words, found[kind], ends) for kind, words in (("LGC", LGC), ("SFR", SFR)) if found[kind]]
    # The same plot of both kinds, side by side.
    drawings = [each for pair in zip(*kinds, strict=True) for each in pair]
    return Section("connections", "Connections", [_state(network)], drawings=drawings)


def _state(network: Network) -> str:
    form = f"{network.name}, {network.form_name}, {len(learned_layers(network))} learned layers"
    if network.form.condensed:
        return f"{form}."
    seen, last = on_host(network), network.condensation_stages
    return (
        f"{form}, {stages_passed(seen)} of {last} condensation stages passed, {float(sparsity(seen)):.1%} of the "
        f"learned 1×1 weights removed."
    )


def _drawings(words: Words, convs: list[Connections], block_ends: list[int] | None) -> list[Drawing]:
    """Make the plots of one kind of layer; only dense networks have `block_ends` and a heat map."""
    masks = [conv.kept for conv in convs]
    heat_map = [] if block_ends is None else [_heat_map(words, convs, block_ends)]
    unused = np.mean(np.concatenate([~mask.any(0) for mask in masks]))
    return [
        *heat_map,
        drawing(
            lambda figure: draw_group_strips(figure, masks, channels=f"channel that may be {words.done}"),
            key=f"{words.key}-groups",
            height=min(1.2 + 0.22 * len(masks), 6.5),
            label=f"For each of {len(masks)} layers, which of its {len(masks[0])} groups {words.does} which channels.",
            caption=f"Which group may {words.does} which channels: one strip per layer, one row for each of its "
            f"groups, coloured where there is a connection. The oldest channels, from the stem, are on the left.",
        ),
        drawing(
            lambda figure: draw_readers(figure, masks, verb=words.done),
            key=f"{words.key}-readers",
            height=3.2,
            label=f"Number of groups by which each layer's channels are {words.done}: {unused:.0%} of all by none.",
            caption=f"Number of groups of a layer by which channels are {words.done}. Grey is none, but later layers "
            f"may still use these channels.",
        ),
    ]


def _heat_map(words: Words, convs: list[Connections], block_ends: list[int]) -> Drawing:
    values = layer_map([conv.per_channel for conv in convs])
    nearest = np.mean([np.nanargmax(values[:, column]) == column for column in range(len(values))])
    return drawing(
        lambda figure: draw_layer_map(
            figure, values, block_ends, columns=f"dense layer that {words.does}s", rows="features of"
        ),
        key=f"{words.key}-map",
        height=3.7,
        label=f"Heat map of {words.kind} between {len(convs)} layers: {nearest:.0%} of them are most connected with "
        f"the features just before them.",
        caption=f"{words.meaning}; each column is divided by its maximum. Dashed: ends of blocks.",
    )
