"""Measure one side of `benchmarks.accelerator` in its own process; print one JSON line per batch size.

    python -m benchmarks.accelerator_side rates
    python -m benchmarks.accelerator_side SIDE WORK MODEL BATCH …

SIDE: "ours", "torch" or "torch_compile" (both channels_last, under autocast). WORK: "training", "condensed", "masked".
Computes in bfloat16. A batch that does not fit into memory is reported, and larger ones are not tried.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from benchmarks.inference import our_call
from benchmarks.machine import measured_copy_rate, measured_gemm_rate
from benchmarks.networks import Form, example_images, example_labels, pruned_pair, twin_of
from benchmarks.peers.torch_inference import TorchPeer
from benchmarks.peers.torch_training import TorchTrainer
from benchmarks.results import Entry
from benchmarks.timing import Call, measure_in_turn, milliseconds_of, spread
from benchmarks.training import OPTIMIZER, SMOOTHING, first_losses, our_program, step_call
from cdnv2_jax import condense, create_model
from cdnv2_jax.errors import one_line
from cdnv2_jax.networks.family import model_entry

Side = Literal["ours", "torch", "torch_compile"]
Work = Literal["training", "condensed", "masked"]
SIDES: tuple[Side, ...] = get_args(Side)
WORKS: tuple[Work, ...] = get_args(Work)

ROUNDS, SECONDS = 20, 5.0
DISTINCT_IMAGES = 64  # generating thousands would take longer than the measurement
SAMPLE = 8
OUT_OF_MEMORY = ("resource_exhausted", "out of memory")


def measure(side: Side, work: Work, name: str, batches: Sequence[int]) -> Iterator[Entry]:
    """Yield one entry per batch size, ascending: see `_measured`, or "failed" with the reason."""
    prepare = _trainer(side, name) if work == "training" else _predictor(side, work, name)
    full = False
    for batch in sorted(batches):
        if full:
            yield {"batch": batch, "failed": "not tried: a smaller batch did not fit into memory"}
            continue
        try:
            yield {"batch": batch, **_measured(prepare, work, name, batch)}
        # Each framework has its own errors for what it cannot do; they are results here.
        except Exception as error:
            full = any(words in str(error).lower() for words in OUT_OF_MEMORY)
            yield {"batch": batch, "failed": "out of memory" if full else one_line(error)}


Prepare = Callable[[np.ndarray, np.ndarray], tuple[Call, dict[str, Any]]]
"""(images [b, h, w, 3], labels [b]) → a call, and further values for its entry."""


def _measured(prepare: Prepare, work: Work, name: str, batch: int) -> Entry:
    """Measure milliseconds (a `Spread`), images/s, seconds of the first call, and sample the results."""
    entry = model_entry(name)
    distinct = example_images(min(batch, DISTINCT_IMAGES), entry.image_size)
    images = np.resize(distinct, (batch, *distinct.shape[1:]))
    call, more = prepare(images, example_labels(batch, entry.architecture.num_classes))
    first = milliseconds_of(call) / 1e3
    sample = first_losses(call) if work == "training" else np.asarray(call())[0, :SAMPLE]
    times = measure_in_turn({"": call}, rounds=ROUNDS, seconds=SECONDS)[""]
    milliseconds = spread(times)
    return {
        "milliseconds": milliseconds._asdict(),
        "images_per_second": 1e3 * batch / milliseconds.median,
        "first_call_seconds": first,
        "sample": sample.tolist(),
        **more,
    }


def _trainer(side: Side, name: str) -> Prepare:
    def ours(images: np.ndarray, labels: np.ndarray) -> tuple[Call, dict[str, Any]]:
        model = create_model(name, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
        step, state, batch = our_program(model, images, labels)
        compiled = cast(Any, step).lower(state, batch).compile()
        return step_call(compiled, state, batch), {"program_bytes": compiled.cost_analysis().get("bytes accessed")}

    def theirs(images: np.ndarray, labels: np.ndarray) -> tuple[Call, dict[str, Any]]:
        twin = twin_of(create_model(name, rngs=nnx.Rngs(0)))
        trainer = TorchTrainer(channels_last=True, compile=side == "torch_compile", device=_device(), bfloat16=True)
        return trainer(twin, images, labels, OPTIMIZER, SMOOTHING), {}

    return ours if side == "ours" else theirs


def _predictor(side: Side, form: Form, name: str) -> Prepare:
    masked, twin = pruned_pair(name, jnp.bfloat16)
    if side == "ours":
        call = partial(our_call, condense(masked) if form == "condensed" else masked)
    else:
        # The official code runs eagerly and unfolded; a user who compiles would fold, too.
        compile = side == "torch_compile"
        peer = TorchPeer(channels_last=True, compile=compile, fold=compile, device=_device(), bfloat16=True)
        call = peer(twin, form)
    return lambda images, labels: (call(images), {})


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
    for entry in measure(cast(Side, side), cast(Work, work), name, [int(batch) for batch in batches]):
        print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
