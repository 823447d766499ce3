"""Whether an implementation computes the right network: its results beside those of PyTorch in float64 on the CPU.

Inference is compared by logits; training by the first step's gradients and changes of running statistics, and by the
losses of the first steps. `benchmarks/problems.py` makes weights, images and the expected results.
"""

import math
from typing import Any, Literal, cast

import jax
import numpy as np
import optax
from flax import nnx

from benchmarks.peers.peer import DifferentResults
from benchmarks.timing import Call
from benchmarks.training import CHECKED_STEPS, OPTIMIZER
from cdnv2_jax import to_torch_state_dict
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.training.step import Batch, TrainState, TrainStep
from tests.torch_twin import CondenseNetTwin

Precision = Literal["highest", "default", "bfloat16"]
"""Of products: all bits of float32; the back end's default for float32, at least TF32; the network in bfloat16."""

Tensors = dict[str, np.ndarray]
Results = dict[str, Tensors]
"""Quantity → name of a tensor → its values, float64."""

Differences = dict[str, float]
"""Quantity → difference from the reference, see `differences`."""

TOLERANCE: dict[Precision, Differences] = {
    "highest": {"logits": 1e-4, "gradients": 5e-3, "gradient_scale": 1e-3, "statistics": 1e-4, "losses": 1e-5},
    "default": {"logits": 5e-2, "gradients": 4e-1, "gradient_scale": 1e-1, "statistics": 1e-2, "losses": 1e-4},
    "bfloat16": {"logits": 3e-1, "gradients": 9e-1, "gradient_scale": 5e-1, "statistics": 1e-1, "losses": 1e-3},
}
"""Largest differences allowed: about two to ten times what emulated rounding gives for cdnv2_a (docs/speed.md). Random
weights amplify rounding a hundred times in gradients, which is why their direction says little in bfloat16."""


def logits_of(logits: np.ndarray) -> Results:
    """Results of inference."""
    return {"logits": {"": np.asarray(logits, np.float64)}}


def torch_results(call: Call, twin: CondenseNetTwin, before: CondenseNetTwin) -> Results:
    """Make the first steps of a `TorchTrainer` and return their results.

    Args:
      call: makes one step and returns the loss before it.
      twin: what `call` trains.
      before: the twin before the first step.
    """
    losses = [call()]
    gradients = {key: _array(weight.grad) for key, weight in twin.named_parameters() if weight.grad is not None}
    after = {key: _array(value) for key, value in twin.named_buffers()}
    losses += [call() for _ in range(CHECKED_STEPS - 1)]
    return _training_results(losses, gradients, after, before)


def our_results(
    step: TrainStep, state: TrainState, batch: Batch, model: CondenseNet, before: CondenseNetTwin
) -> tuple[TrainState, Results]:
    """Make the first steps of ours; return the new state and the steps' results.

    Args:
      step: may be compiled.
      state: see `create_state`.
      batch: see `create_state`.
      model: the network that `state` was created from.
      before: the twin with its weights.
    """
    state, metrics = step(state, batch)
    losses = [float(metrics["loss"])]
    momentum = nnx.clone(model)
    nnx.update(momentum, cast(nnx.State, optax.tree.get(state.opt_state, "trace")))
    nnx.update(momentum, state.stats)
    after = {key: np.asarray(value, np.float64) for key, value in to_torch_state_dict(momentum).items()}
    gradients = {}
    for key, weight in before.named_parameters():
        decay = OPTIMIZER.weight_decay if weight.ndim >= 2 else 0.0
        gradients[key] = after[key] - decay * _array(weight)  # momentum starts as the gradient and weight decay
    for _ in range(CHECKED_STEPS - 1):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return jax.block_until_ready(state), _training_results(losses, gradients, after, before)


def _training_results(losses: list[float], gradients: Tensors, after: Tensors, before: CondenseNetTwin) -> Results:
    old = {key: _array(value) for key, value in before.named_buffers() if "running" in key}
    changes = {key: after[key] - value for key, value in old.items()}
    return {"losses": {"": np.array(losses)}, "gradients": gradients, "statistics": changes}


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().double().numpy().copy()


def check(found: Results, expected: Results, precision: Precision) -> Differences:
    """Return the differences of results; DifferentResults if one is too large for this precision."""
    all_differences = differences(found, expected)
    for quantity, difference in all_differences.items():
        allowed = TOLERANCE[precision][quantity]
        if not difference <= allowed:  # also refuses NaN
            raise DifferentResults(
                f"{quantity} ({precision}) differ by {difference:.1e} from PyTorch's in float64 on the CPU,"
                f" {allowed:.0e} is allowed"
            )
    return all_differences


def differences(found: Results, expected: Results) -> Differences:
    """Compute how far results are from the expected ones.

    Returns:
      logits: relative to their spread over the images.
      losses: relative.
      gradients, statistics: relative in each tensor, and the root of the mean square over tensors.
      gradient_scale: |⟨found, expected⟩ / ⟨expected, expected⟩ − 1| over all gradients, in which random errors cancel.
    """
    _check_shapes(found, expected)
    result = {quantity: _distance(quantity, found[quantity], tensors) for quantity, tensors in expected.items()}
    if "gradients" in expected:
        result["gradient_scale"] = abs(_projection(found["gradients"], expected["gradients"]) - 1)
    return result


def _distance(quantity: str, found: Tensors, expected: Tensors) -> float:
    """Return the root of the mean over tensors of the squared relative differences."""
    scales = {key: value - value.mean(0) if quantity == "logits" else value for key, value in expected.items()}
    norms = {key: float(np.linalg.norm(value)) for key, value in scales.items()}
    # Gradients that ought to vanish are compared with a thousandth of the others.
    least = 1e-3 * math.sqrt(sum(norm**2 for norm in norms.values()) / len(norms))
    squares = []
    for key, value in expected.items():
        share = len(found[key]) / len(value) if quantity == "logits" else 1.0
        difference = float(np.linalg.norm(found[key] - value[: len(found[key])]))
        squares.append(difference**2 / (share * max(norms[key], least) ** 2))
    return math.sqrt(sum(squares) / len(squares))


def _projection(found: Tensors, expected: Tensors) -> float:
    """Return ⟨found, expected⟩ / ⟨expected, expected⟩ over all tensors."""
    products = sum(float(np.vdot(found[key], value)) for key, value in expected.items())
    return products / sum(float(np.vdot(value, value)) for value in expected.values())


def _check_shapes(found: Results, expected: Results) -> None:
    """Raise DifferentResults unless all tensors are there; logits may be those of the first images."""
    for quantity, tensors in expected.items():
        first = 1 if quantity == "logits" else 0
        shapes = {key: value.shape[first:] for key, value in tensors.items()}
        others = {key: value.shape[first:] for key, value in found.get(quantity, {}).items()}
        if any(others.get(key) != shape for key, shape in shapes.items()):
            raise DifferentResults(f"{quantity} are missing or of another shape")
