"""What a run says about itself before it starts: stages, costs, averages that cannot keep up, and the time it takes."""

import re

import pytest

from cdnv2_jax.training.outline import (
    Forecast,
    averaging_fault,
    duration,
    idle_line,
    network_line,
    stages_line,
    starved_line,
)
from tests.tables import table


@table(
    "decay, steps, stages, fitting",
    {
        "nothing is averaged": (0.0, 1, 7, None),
        "ImageNet as published: 5,000 steps, stages 31,275 apart": (0.9998, 437_850, 7, None),
        "the digits: 10 steps, stages 110 apart": (0.9, 660, 3, None),
        "1,000 steps, stages 401 apart": (0.999, 5616, 7, "0.99 (100 steps) fits"),
        "50 steps, stages 110 apart": (0.98, 660, 3, "0.95 (20 steps) fits"),
        "exactly three times between two stages": (0.99, 1800, 3, None),
        "a step less": (0.99, 1799, 3, "0.98 (50 steps) fits"),
        "no stages: a tenth of the run": (0.99, 1000, 0, None),
        "a little less": (0.99, 999, 0, "0.98 (50 steps) fits"),
        "one stage in the middle, so the length decides": (0.95, 190, 1, "0.9 (10 steps) fits"),
        "the initial weights for ever": (1.0, 10**6, 7, "0.9999 (10,000 steps) fits"),
        "too short for any": (0.9, 2, 3, "0 turns it off"),
    },
)
def test_averages_that_lag_behind(decay: float, steps: int, stages: int, fitting: str | None) -> None:
    fault = averaging_fault(decay, steps, stages)
    assert fault.endswith(f", --config.ema_decay={fitting}") if fitting else fault == ""
    if advised := re.search(r"ema_decay=([\d.]+)", fault):
        assert averaging_fault(float(advised[1]), steps, stages) == ""


@table(
    "decay, steps, stages, said",
    [
        (
            0.999,
            5616,
            7,
            "0.999 averages over 1,000 steps, but the run has 5,616: averaged weights lag behind to the end, ",
        ),
        (0.99, 1400, 7, "0.99 averages over 100 steps, but stages come every 100: averaged weights lag behind until "),
        (1.0, 100, 0, "1 keeps the initial weights, but the run has 100: averaged weights lag behind to the end, "),
    ],
)
def test_why_an_average_lags_behind(decay: float, steps: int, stages: int, said: str) -> None:
    assert averaging_fault(decay, steps, stages).startswith(f"config.ema_decay {said}")


@table(
    "stages, passed, line",
    [
        (3, 0, "condensation stages: 3, after epochs 5, 10, 15"),
        (3, 2, "condensation stages: 1 of 3, after epoch 15"),
        (3, 3, "condensation stages: all 3 passed"),
        (0, 0, "condensation stages: none"),
    ],
)
def test_stages_ahead(stages: int, passed: int, line: str) -> None:
    assert stages_line(stages, passed, total_steps=660, steps_per_epoch=22) == line


@table(
    "platform, batch, accumulate, devices, few, enough, size",
    [
        ("tpu", 1024, 1, 64, "16 images at a time on each TPU", "128: 8 devices", 8192),
        ("tpu", 1280, 20, 1, "64 images at a time on each TPU", "128", 2560),
        ("tpu", 288, 1, 3, "96 images at a time on each TPU", "128: 2 devices", 384),
        ("gpu", 2, 1, 2, "1 image at a time on each GPU", "64: 1 device", 128),
    ],
)
def test_devices_with_too_few_images(
    platform: str, batch: int, accumulate: int, devices: int, few: str, enough: str, size: int
) -> None:
    (line,) = idle_line(platform, batch, accumulate, devices)
    slower = " would be more than half as fast," if ":" in enough else ":"
    remedy = f"--config.data.batch_size={size} makes use of {devices}"
    assert line == f"{few} take more than half as long as {enough}{slower} {remedy}"
    assert idle_line(platform, size, accumulate, devices) == []


@table("platform, batch, accumulate, devices", [("tpu", 8192, 1, 64), ("tpu", 1280, 10, 1), ("gpu", 512, 1, 8)])
def test_devices_with_enough_images(platform: str, batch: int, accumulate: int, devices: int) -> None:
    assert idle_line(platform, batch, accumulate, devices) == []
    assert idle_line("cpu", 8, 1, 8) == []


@table(
    "costs, line",
    [
        (
            {"masked": {"multiply_adds": 4000, "flops": 1200, "params": 50}, "condensed": {"multiply_adds": 1000}},
            "network: 50 parameters; multiply-adds: 4,000 masked, 1,000 condensed; official FLOPs: 1,200",
        ),
        (
            {"plain": {"multiply_adds": 4000, "flops": 4000, "params": 50}},
            "network: 50 parameters; multiply-adds: 4,000",
        ),
    ],
)
def test_costs(costs: dict[str, dict[str, int]], line: str) -> None:
    assert network_line({form: {**next(iter(costs.values())), **cost} for form, cost in costs.items()}) == line


def test_forecast() -> None:
    """64 images a step at 32 a second: two seconds a step once compiled, and told once."""
    forecast = Forecast(batch_size=64, last_step=1000, workers=0)
    rates = {10: 3.0, 20: 32.0, 30: 32.0, 40: 32.0, 50: 32.0}
    assert {step: forecast.lines(step, rate, 0.0) for step, rate in rates.items()} == {
        **{step: [] for step in (10, 20, 40, 50)},
        30: ["about 32 minutes for the 970 steps left, evaluations not counted"],  # of 1940 seconds
    }


def test_waiting_for_input_is_said_with_the_forecast() -> None:
    """Half of 20 seconds, then a tenth of 20: 30 %; compiling, while input is prepared ahead, is left out."""
    forecast = Forecast(batch_size=64, last_step=1000, workers=0)
    assert forecast.lines(10, 3.0, 0.0) == forecast.lines(20, 32.0, 0.5) == []
    assert forecast.lines(30, 32.0, 0.1)[1].startswith("30% of the time is spent waiting for input")


@table(
    "share, workers, cores, advice",
    {
        "hardly": (0.09, 0, 16, None),
        "from a tenth on": (0.1, 0, 16, "raise --config.data.workers, 0 now, to 15 on these 16 cores"),
        "one core is left for the devices": (0.5, 14, 16, "14 now, to 15"),
        "all cores prepare": (0.5, 15, 16, "all 16 cores prepare it: use more, or shrink"),
        "the only core": (1.0, 0, 1, "the only core prepares it"),
    },
)
def test_starved(share: float, workers: int, cores: int, advice: str | None) -> None:
    lines = starved_line(share, workers, cores)
    assert [bool(advice and advice in line) for line in lines] == ([] if advice is None else [True])


def test_forecast_waits_for_ten_seconds() -> None:
    """Twenty quick steps say little: 0.1 seconds each here."""
    forecast = Forecast(batch_size=64, last_step=10_000, workers=0)
    told = [step for step in range(300, 400, 10) if forecast.lines(step, 640.0, 0.0)]
    assert told == []
    assert [step for step in range(400, 420, 10) if forecast.lines(step, 640.0, 0.0)] == [400]


@pytest.mark.parametrize(
    "seconds, words",
    [
        (3, "about 1 minute"),
        (100, "about 2 minutes"),
        (5900, "about 98 minutes"),
        (7200, "about 2 hours"),
        (260_000, "about 3 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
