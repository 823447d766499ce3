"""What a run is about to do, in a few lines: its network, steps and stages, averages that lag behind, and the time."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from cdnv2_jax.devices import cores
from cdnv2_jax.pruning.prune import pruning_steps
from cdnv2_jax.training.experiment import Experiment
from cdnv2_jax.training.optimizer import rate_scale

DECAYS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)
"""What is proposed for `ema_decay`."""
PER_STAGE, PER_RUN = 3, 10
"""How often an average's horizon must fit between two stages and into the run. On the digits, the averaged network
guesses after a stage, has an accuracy of 95 % three horizons later, and that of the live one, 99 %, after five; the
second half of a run, without stages, must have these."""

MEASURED_STEPS, MEASURED_SECONDS = 20, 10
"""After how much, compiling left out, the time of a run and the share of waiting for input are estimated."""

STARVED = 0.1
"""Share of the time spent waiting for input from which on a run says so."""

USEFUL_IMAGES = {"tpu": 128, "gpu": 64}
"""Images of a classifier that a device can use at a time, by back end; fewer take more than half as long.

On a TPU, XLA lays 128 images along the lanes of its vector unit: by its cycles for cdnv2_a on a v5e, 16 take 63 % of
the time, and 64 take 126 %. On a GPU, launching a step's kernels (1,700 for cdnv2_a, 1 µs or more each) takes as long
as the bytes of 64 images at the bandwidth of an H100. Both are by their compilers (docs/distributed.md), not timed.
"""


def outline(experiment: Experiment[Any, Any, Any, Any], first: int, stage: int) -> list[str]:
    """Describe the run from step `first` on, a line for each fact.

    Args:
      experiment: the experiment, prepared for training.
      first: steps done.
      stage: the last stage that the whole network has passed.
    """
    config, total, stages = experiment.config, experiment.total_steps, experiment.stages
    batch_size = config.data.batch_size
    rate = config.optimizer.learning_rate * rate_scale(config.optimizer, batch_size)
    steps = f"{total - first:,} of {total:,} steps left" if first else f"{total:,} step{'s' if total > 1 else ''}"
    epochs = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
    average = f", EMA decay {config.ema_decay:g}" if config.ema_decay else ""
    lines = [
        f"training: {steps}, {batch_size} images each, {epochs}, learning rate {rate:g}{average}",
        stages_line(stages, stage, total, experiment.steps_per_epoch),
    ]
    if experiment.costs:
        lines.insert(0, network_line(experiment.costs))
    fault = averaging_fault(config.ema_decay, total, stages if stage < stages else 0)
    if fault and not first:  # a resumed run keeps its decay
        lines.append(fault)
    if config.task == "classification":  # a detector's images are so large that memory allows a few only
        lines += idle_line(jax.default_backend(), batch_size, config.accumulate, experiment.devices.count)
    return lines


def network_line(costs: Mapping[str, Mapping[str, int]]) -> str:
    """Say what the network costs in each form, from {form: {"multiply_adds", "params", perhaps "flops"}}."""
    *_, last = costs.values()
    adds = ", ".join(f"{cost['multiply_adds']:,}{f' {form}' if len(costs) > 1 else ''}" for form, cost in costs.items())
    flops = last.get("flops", last["multiply_adds"])
    official = f"; official FLOPs: {flops:,}" if flops != last["multiply_adds"] else ""
    return f"network: {last['params']:,} parameters; multiply-adds: {adds}{official}"


def stages_line(stages: int, passed: int, total_steps: int, steps_per_epoch: int) -> str:
    """Say after which epochs the condensation stages come that are not passed yet."""
    ahead = [step for stage, step in pruning_steps(total_steps, stages + 1).items() if stage > passed]
    if not ahead:
        return f"condensation stages: all {stages} passed" if stages else "condensation stages: none"
    which = f"{len(ahead)} of {stages}" if passed else f"{stages}"
    epochs = dict.fromkeys(f"{step / steps_per_epoch:.3g}" for step in ahead)
    return f"condensation stages: {which}, after epoch{'s' if len(epochs) > 1 else ''} {', '.join(epochs)}"


def averaging_fault(decay: float, total_steps: int, stages: int) -> str:
    """Say that an average of weights lags behind, and which decay fits; "" if it can keep up.

    Its horizon, 1 / (1 − decay) steps, is compared with the distance between stages and with the length of the run.

    Args:
      decay: `ema_decay`, in [0, 1].
      total_steps: steps of the run.
      stages: condensation stages in its first half, evenly spaced; 0 if none is ahead.
    """
    distance = total_steps / (2 * stages) if stages else math.inf
    most = min(distance / PER_STAGE, total_steps / PER_RUN)
    if horizon(decay) <= most or not decay:
        return ""
    over = f"averages over {horizon(decay):,.0f} steps" if decay < 1 else "keeps the initial weights"
    late = horizon(decay) > total_steps / PER_RUN
    lag = f"the run has {total_steps:,}" if late else f"stages come every {distance:,.0f}"
    fitting = max((decay for decay in DECAYS if horizon(decay) <= most), default=0)
    advice = f"={fitting:g} ({horizon(fitting):,.0f} steps) fits" if fitting else "=0 turns it off"
    return (
        f"config.ema_decay {decay:g} {over}, but {lag}: averaged weights lag behind "
        f"{'to the end' if late else 'until pruning has ended'}, --config.ema_decay{advice}"
    )


def horizon(decay: float) -> float:
    """Return the number of steps that an average of this decay looks back, 1 / (1 − decay), exact for `DECAYS`."""
    return round(1 / (1 - decay), 6) if decay < 1 else math.inf


def idle_line(platform: str, batch_size: int, accumulate: int, devices: int) -> list[str]:
    """Say that devices get fewer images than they can use, and how many can; [] if they get enough.

    Args:
      platform: "cpu", "gpu" or "tpu".
      batch_size: global batch, a multiple of accumulate · devices.
      accumulate: micro-batches that it is split into.
      devices: devices that each of these is sharded over.
    """
    part, useful = batch_size // accumulate, USEFUL_IMAGES.get(platform, 1)
    images = part // devices
    if images >= useful:
        return []
    enough = next(count for count in range(max(part // useful, 1), 0, -1) if part % count == 0)
    fewer = f"{enough} device{'s' if enough > 1 else ''} would be more than half as fast, " if enough < devices else ""
    few = f"{images} image{'s' if images > 1 else ''} at a time on each {platform.upper()}"
    return [
        f"{few} take more than half as long as {useful}: "
        f"{fewer}--config.data.batch_size={useful * devices * accumulate} makes use of {devices}"
    ]


def starved_line(share: float, workers: int, available: int) -> list[str]:
    """Say that devices wait for input, and what to do; [] if they hardly do.

    Args:
      share: share of the time spent waiting for input, in [0, 1].
      workers: `data.workers` of this process.
      available: cores that it may use.
    """
    if share < STARVED:
        return []
    waiting = f"{share:.0%} of the time is spent waiting for input"
    if workers < available - 1:
        return [f"{waiting}: raise --config.data.workers, {workers} now, to {available - 1} on these {available} cores"]
    all_cores = f"all {available} cores prepare" if available > 1 else "the only core prepares"
    return [
        f"{waiting}, and {all_cores} it: use more, or shrink a classifier's photographs once, with "
        f"cdnv2 prepare --short-side 256"
    ]


class Forecast:
    """Estimates of the time that a run takes and of its waiting for input, from its first steps."""

    def __init__(self, batch_size: int, last_step: int, workers: int):
        self._batch_size, self._last_step, self._workers = batch_size, last_step, workers
        self._step, self._steps, self._seconds, self._waited = -1, 0, 0.0, 0.0

    def lines(self, step: int, images_per_second: float, input_wait: float) -> list[str]:
        """Return the estimates, a line each, the first time that enough has been measured, else [].

        Args:
          step: steps done.
          images_per_second: throughput since the last call; the first call's includes compiling and is left out.
          input_wait: share of the time since then that was spent waiting for input, in [0, 1].
        """
        before, known, self._step = self._step, self._is_known, step
        if before < 0 or known:
            return []
        seconds = (step - before) * self._batch_size / images_per_second
        self._steps += step - before
        self._seconds += seconds
        self._waited += seconds * input_wait
        if not self._is_known:
            return []
        left = self._last_step - step
        time_left = f"{duration(left * self._seconds / self._steps)} for the {left:,} steps left"
        starved = starved_line(self._waited / self._seconds, self._workers, cores())
        return [f"{time_left}, evaluations not counted", *starved]

    @property
    def _is_known(self) -> bool:
        return self._steps >= MEASURED_STEPS and self._seconds >= MEASURED_SECONDS


def duration(seconds: float) -> str:
    """Return a time in words: "about 12 minutes"."""
    minutes = max(1, round(seconds / 60))
    if minutes < 100:
        return f"about {minutes} minute{'s' if minutes > 1 else ''}"
    hours = seconds / 3600
    return f"about {hours:.0f} hours" if hours < 72 else f"about {hours / 24:.0f} days"
