"""Measure one side of `benchmarks.accelerator` in its own process; print one JSON line per batch size.

    python -m benchmarks.accelerator_side rates
    python -m benchmarks.accelerator_side SIDE WORK MODEL BATCH …

SIDE and WORK: see SIDES and `benchmarks.problems.Work`. PyTorch's network must first agree in float32, uncompiled. Then
everything is in bfloat16, and what is timed must agree before it is. A batch that does not fit into memory is reported,
and larger ones are not tried.
"""

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.agreement import Differences, Results, check, logits_of, our_results, torch_results
from benchmarks.inference import our_call
from benchmarks.machine import measured_copy_rate, measured_gemm_rate
from benchmarks.networks import Form
from benchmarks.options import check_models
from benchmarks.peers.torch_compiler import tf32
from benchmarks.peers.torch_inference import TorchPeer
from benchmarks.peers.torch_training import TorchTrainer
from benchmarks.problems import MOST_IMAGES, Problem, Work, in_torch
from benchmarks.results import Entry
from benchmarks.timing import Call, measure_in_turn, spread
from benchmarks.training import OPTIMIZER, SMOOTHING, our_program, step_call
from cdnv2_jax.errors import one_line

Side = Literal["ours", "torch", "torch_compile", "torch_max_autotune"]
SIDES: tuple[Side, ...] = get_args(Side)
WORKS: tuple[Work, ...] = get_args(Work)

ROUNDS, SECONDS = 20, 5.0
OUT_OF_MEMORY = ("resource_exhausted", "out of memory")

problem = cache(Problem)


class Ready(NamedTuple):
    """What is to be timed.

    Attributes:
      call: does the work once.
      results: of the first calls, to be compared.
      program_bytes: bytes that XLA counts in our training step.
    """

    call: Call
    results: Results
    program_bytes: float | None = None


def measure(side: Side, work: Work, name: str, batches: Sequence[int]) -> Iterator[Entry]:
    """Yield one entry per batch size, ascending: see `_measured`, or "failed" with the reason."""
    try:
        differences = {} if side == "ours" else {"highest": float32_differences(work, name)}
    # Each framework has its own errors for what it cannot do; they are results here.
    except Exception as error:
        yield from ({"batch": batch, "failed": one_line(error)} for batch in sorted(batches))
        return
    full = False
    for batch in sorted(batches):
        if full:
            yield {"batch": batch, "failed": "not tried: a smaller batch did not fit into memory"}
            continue
        try:
            entry = _measured(side, work, name, batch)
            yield {"batch": batch, **entry, "differences": differences | {"bfloat16": entry["differences"]}}
        except Exception as error:
            full = any(words in str(error).lower() for words in OUT_OF_MEMORY)
            yield {"batch": batch, "failed": "out of memory" if full else one_line(error)}


def float32_differences(work: Work, name: str) -> Differences:
    """Check the peers' network in float32, with all of its bits, as it is before it is compiled."""
    case = problem(work, name)
    with tf32(allowed=False):
        return check(in_torch(case, _device()), case.expected, "highest")


def _measured(side: Side, work: Work, name: str, batch: int) -> Entry:
    """Measure milliseconds (a `Spread`), images/s and the seconds until results agreed, compiling included."""
    training = work == "training"
    # A batch of a few images repeated has their gradients and statistics, so the reference needs no large batch.
    case = problem(work, name, math.gcd(batch, MOST_IMAGES)) if training else problem(work, name)
    images = np.resize(case.images, (batch, *case.images.shape[1:]))
    expected = case.expected
    start = time.perf_counter()
    ready = _trainer(side, case, images) if training else _predictor(side, case, images)
    differences = check(ready.results, expected, "bfloat16")
    seconds = time.perf_counter() - start
    milliseconds = spread(measure_in_turn({"": ready.call}, rounds=ROUNDS, seconds=SECONDS)[""])
    return {
        "milliseconds": milliseconds._asdict(),
        "images_per_second": 1e3 * batch / milliseconds.median,
        "ready_seconds": seconds,
        "differences": differences,
        **({"program_bytes": ready.program_bytes} if ready.program_bytes else {}),
    }


def _trainer(side: Side, case: Problem, images: np.ndarray) -> Ready:
    labels = np.resize(case.labels, len(images))
    if side == "ours":
        model = case.model(jnp.bfloat16)
        step, state, batch = our_program(model, images, labels)
        compiled = cast(Any, step).lower(state, batch).compile()
        state, results = our_results(compiled, state, batch, model, case.twin)
        return Ready(step_call(compiled, state, batch), results, compiled.cost_analysis().get("bytes accessed"))
    twin = case.twin_copy()
    call = TorchTrainer(**_settings(side))(twin, images, labels, OPTIMIZER, SMOOTHING)
    return Ready(call, torch_results(call, twin, case.twin))


def _predictor(side: Side, case: Problem, images: np.ndarray) -> Ready:
    if side == "ours":
        call = our_call(case.model(jnp.bfloat16), images)
    else:
        # The official code runs eagerly and unfolded; a user who compiles would fold, too.
        peer = TorchPeer(fold=side != "torch", **_settings(side))
        call = peer(case.twin, cast(Form, case.work))(images)
    return Ready(call, logits_of(np.asarray(call())[:MOST_IMAGES]))


def _settings(side: Side) -> dict[str, Any]:
    """The peers' settings of a side."""
    compile, autotune = side != "torch", side == "torch_max_autotune"
    return {"channels_last": True, "compile": compile, "autotune": autotune, "device": _device(), "bfloat16": True}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def rates() -> dict[str, float]:
    """Measure the device's rates of bfloat16 matrix products and copies, both large enough to fill a GPU."""
    large = jax.default_backend() != "cpu"
    return {
        "gemm_multiply_adds_per_second": measured_gemm_rate(8192 if large else 512, dtype=jnp.bfloat16),
        "copied_bytes_per_second": measured_copy_rate(2**32 if large else 2**26),
    }


def main(arguments: Sequence[str]) -> None:
    """Measure and print; the caller has checked the arguments."""
    if arguments == ["rates"]:
        print(json.dumps(rates()))
        return
    side, work, name, *batches = arguments
    check_models([name])
    for entry in measure(cast(Side, side), cast(Work, work), name, [int(batch) for batch in batches]):
        print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
