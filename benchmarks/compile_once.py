"""Compile one program in this process and print how long that took, as JSON.

    python -m benchmarks.compile_once PROGRAM MODEL BATCH

PROGRAM: "train", a training step of the masked network; "masked" or "condensed", a forward pass.
`benchmarks.compile_time` runs this in fresh processes.
"""

import json
import sys
from typing import Literal, get_args

import jax
from flax import nnx

from benchmarks.inference import our_call
from benchmarks.networks import example_images, example_labels, pruned_pair
from benchmarks.timing import Call, milliseconds_of
from benchmarks.training import our_step
from cdnv2_jax import condense, create_model
from cdnv2_jax.networks.family import model_entry

Program = Literal["train", "condensed", "masked"]
PROGRAMS: tuple[Program, ...] = get_args(Program)
COMPILING = "/jax/core/compile/backend_compile_duration"


def seconds_to_ready(call: Call) -> dict[str, float]:
    """Time a first and a second call.

    Returns:
      Seconds until the `first_result`; of these `compiling` (or reading from the cache), and `lowering`: tracing and
      lowering, the rest without the execution.
    """
    compiling: list[float] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILING:
            compiling.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    first, second = milliseconds_of(call) / 1e3, milliseconds_of(call) / 1e3
    return {"lowering": first - sum(compiling) - second, "compiling": sum(compiling), "first_result": first}


def first_call(program: Program, name: str, batch: int) -> Call:
    """Return the call to compile; its inputs are ready."""
    entry = model_entry(name)
    images = example_images(batch, entry.image_size)
    if program == "train":
        labels = example_labels(batch, entry.architecture.num_classes)
        return our_step(create_model(name, rngs=nnx.Rngs(0)), images, labels)
    masked, _ = pruned_pair(name)
    return our_call(masked if program == "masked" else condense(masked), images)


if __name__ == "__main__":
    chosen, model, images_per_call = sys.argv[1:]
    if chosen not in PROGRAMS:
        sys.exit(f"no program is called {chosen!r}: there are {', '.join(PROGRAMS)}")
    print(json.dumps(seconds_to_ready(first_call(chosen, model, int(images_per_call)))))
