"""Learning curves, sparsity over time, and what each condensation stage removed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdnv2_jax.files import replacing
from cdnv2_jax.report.connection_plots import draw_cuts
from cdnv2_jax.report.page import Section, drawing

Record = dict[str, Any]

PLOTS = ("learning_curves.png", "sparsity.png")
FEW_STAGES = 4
TRAIN, HELD_OUT, LIVE, STAGE, PRUNED = "#4477aa", "#cc6677", "#aa8800", "#999999", "#228833"


def plot_run(records: Sequence[Record], directory: Path) -> list[Path]:
    """Write learning_curves.png (loss and accuracy, stages marked) and sparsity.png into `directory`."""
    # The object interface needs no display and leaves pyplot's global state alone.
    from matplotlib.figure import Figure

    curves = Figure(figsize=(8, 6), layout="constrained")
    draw_learning_curves(curves, records)
    over_time = Figure(figsize=(8, 3.2), layout="constrained")
    draw_sparsity(over_time, records)
    paths = [directory / name for name in PLOTS]
    for figure, path in zip((curves, over_time), paths, strict=True):
        with replacing(path) as scratch:
            figure.savefig(scratch, dpi=130)
    return paths


def draw_learning_curves(figure: Any, records: Sequence[Record]) -> None:
    """Draw loss and accuracy (AP for a detector) over the steps, with a dashed line at each condensation stage.

    Held-out images have two curves if the run averages its weights (EMA): one with these, one with the live weights.
    """
    train, held_out = of_kind(records, "train"), of_kind(records, "eval")
    detection = any("AP" in record for record in held_out)
    averaged = ", averaged weights (EMA)" if any("live_loss" in one or "live_AP" in one for one in held_out) else ""
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    for axes, train_key, eval_key, label, scale in (
        (loss, "loss", "loss", "loss" if detection else "loss, nats", 1),
        (accuracy, "accuracy", *(("AP", "AP", 1) if detection else ("top1", "accuracy, %", 100))),
    ):
        mark_stages(axes, records, with_numbers=axes is loss)
        curves: list[tuple[Sequence[Record], str, str, dict[str, Any]]] = [
            (train, train_key, "training batches", {"color": TRAIN, "lw": 1}),
            (held_out, eval_key, f"held-out images{averaged}", {"color": HELD_OUT, "marker": "o", "ms": 3}),
            (held_out, f"live_{eval_key}", "held-out images, live weights", {"color": LIVE, "marker": "s", "ms": 3}),
        ]
        for of, key, name, style in curves:
            steps, values = series(of, key)
            if steps:
                axes.plot(steps, [scale * float(value) for value in values], label=name, **style)
        axes.set_ylabel(label)
        axes.grid(alpha=0.2)
    accuracy.set_xlabel("step")
    named = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in (loss, accuracy)]
    entries = {name: line for pairs in named for line, name in pairs}
    place = {"loc": "outside upper center", "ncols": len(entries) if figure.get_figwidth() > 6 else 1}
    figure.legend(list(entries.values()), list(entries), frameon=False, **place)


def draw_sparsity(figure: Any, records: Sequence[Record]) -> None:
    """Draw the fraction of learned 1×1 weights removed over the steps."""
    axes = figure.subplots()
    stages, train = of_kind(records, "stage"), of_kind(records, "train")
    last = max((record["step"] for record in records), default=0)
    steps = [0, *(record["step"] for record in stages), last]
    values = [0.0, *(record["sparsity"] for record in stages)]
    if train and not stages:
        values = [train[0]["sparsity"]]
        steps = [0, last]
    axes.stairs([100 * value for value in values], steps, color=PRUNED, fill=True, alpha=0.25)
    axes.stairs([100 * value for value in values], steps, color=PRUNED, baseline=None)
    mark_stages(axes, records, with_numbers=True)
    axes.set(xlabel="step", ylabel="removed, %", ylim=(0, 100), title="Learned 1×1 weights removed")
    axes.grid(alpha=0.2)


def mark_stages(axes: Any, records: Sequence[Record], *, with_numbers: bool) -> None:
    """Draw a dashed vertical line at each stage; with more than FEW_STAGES, labels are numbers alone."""
    stages = of_kind(records, "stage")
    for record in stages:
        axes.axvline(record["step"], color=STAGE, ls="--", lw=1)
        if with_numbers:
            axes.annotate(
                f"{'stage ' if len(stages) <= FEW_STAGES else ''}{record['stage']}",
                (record["step"], 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -10),
                textcoords="offset points",
                fontsize=8,
                color="#666666",
            )


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    """Select the records of one kind."""
    return [record for record in records if record["kind"] == kind]


def series(records: Sequence[Record], key: str) -> tuple[list[int], list[float]]:
    """Return steps and values of the records that have this key; a detector's evaluation has no loss."""
    having = [record for record in records if key in record]
    return [record["step"] for record in having], [record[key] for record in having]


def learning_section(records: Sequence[Record], kinds: Sequence[str]) -> Section:
    """Make the section with the curves of the records (see `RunLog`).

    Args:
      kinds: "LGC" or "SFR" for each learned convolution of the network, in order; empty if unknown.
    """
    stages, last = of_kind(records, "stage"), max((record["step"] for record in records), default=0)
    drawings = [
        drawing(
            lambda figure: draw_learning_curves(figure, records),
            key="curves",
            height=5.0,
            label=f"Curves of loss and of accuracy or AP over {last:,} steps, {len(stages)} stages marked.",
            caption="Training batches and held-out images. Dashed, numbered lines are condensation stages; the network "
            "recovers from each while training continues.",
        ),
        drawing(
            lambda figure: draw_sparsity(figure, records),
            key="sparsity",
            height=2.6,
            label=f"Staircase of the share of learned weights removed, in {len(stages)} steps.",
            caption="Fraction of the learned 1×1 weights that had been removed at each step.",
        ),
    ]
    told = [record for record in stages if record.get("cut_weight") and record.get("cut_connections")]
    if told and len(kinds) == len(told[0]["cut_weight"]):
        drawings.append(
            drawing(
                lambda figure: draw_cuts(figure, told, kinds),
                key="cuts",
                height=3.2,
                label="Fraction of connections and of absolute weight removed by each stage, per learned convolution.",
                caption="Relative to what was left before each stage. Dots far below the dashed line are layers whose "
                "removed connections had small weights.",
            )
        )
    text = [] if records else ["Nothing has been recorded yet."]
    return Section("learning", "Learning", text, drawings=drawings)
