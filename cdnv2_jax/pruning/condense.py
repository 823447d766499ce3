"""Condensing of pruned networks: the same outputs, with only the kept connections stored."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import (
    CondensedGroupConv,
    CondensedLayer,
    CondensedLinear,
    condensed_layers,
    empty_twin,
    replace_masked_convs,
    share_norms,
)
from cdnv2_jax.layers.learned import MaskedConv, masked_convs, on_host
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.networks.network import Form, Network
from cdnv2_jax.pruning.prune import name_of

Model = TypeVar("Model", bound=nnx.Module)


def condense(model: Model, *, halve_classifier: bool = False) -> Model:
    """Return a condensed copy of a fully pruned module, in evaluation mode, with the same outputs.

    Of the n connections in each of G groups, n / C are stored: LGC's kernel [n, m] becomes [G, n / C, m / G], SFR's
    [m, n] becomes [G, m / G, n / C], each with the int32 index [G, n / C] of the kept channels.

    Args:
      model: a network, a detector or any other module with learned convolutions, all at their last pruning stage.
      halve_classifier: also keep only the half of the classifier's inputs with the largest L1 norm, as the official
        conversion of CondenseNet (v1) does without fine-tuning; this changes the logits.

    Raises:
      UserError: nothing to condense, condensed already, not fully pruned (the message names the first such layer), or
        a classifier that cannot be halved.
    """
    if not masked_convs(model):
        if condensed_layers(model):
            raise UserError(f"{name_of(model)} is condensed already")
        raise UserError(f"{name_of(model)} has nothing to condense: all of its connections are fixed")
    condensed = nnx.clone(model)
    replace_masked_convs(condensed, _filled_twin)
    share_norms(condensed)
    for _, part in nnx.iter_modules(condensed):
        if isinstance(part, Network):
            part.form = Form(condensed=True)
    if halve_classifier:
        _halve_classifier(condensed)
    condensed.eval()
    return condensed


def _filled_twin(conv: MaskedConv, where: str) -> CondensedLayer:
    twin = nnx.eval_shape(lambda: empty_twin(conv))  # shapes alone: all values are set below
    index = kept_connections(conv, where)
    weights = kept_weights(conv, index)
    twin.index.set_value(jax.device_put(index))
    assert twin.norm is not None
    if isinstance(twin, CondensedGroupConv):
        twin.kernel.set_value(jax.device_put(weights))
        copy_gathered(conv.norm, twin.norm, index.reshape(-1))
    else:
        twin.kernel.set_value(jax.device_put(weights.transpose(0, 2, 1)))
        copy_gathered(conv.norm, twin.norm, np.arange(conv.norm.features))
    return twin


def kept_connections(conv: MaskedConv, where: str) -> np.ndarray:
    """Return the channels each group kept, int32 [G, n / C], ascending; UserError unless each kept exactly n / C."""
    mask = np.asarray(conv.mask[...])
    counts = mask.sum(-1)
    if (counts != conv.kept).any():
        wrong = int(np.flatnonzero(counts != conv.kept)[0])
        raise UserError(
            f"{where}: group {wrong} has {counts[wrong]} connections instead of {conv.kept}: "
            f"prune the network to its last stage first"
        )
    return np.nonzero(mask)[1].reshape(counts.size, conv.kept).astype(np.int32)


def kept_weights(conv: MaskedConv, index: np.ndarray) -> np.ndarray:
    """Return the weights of the kept connections, [G, n / C, m]."""
    return np.take_along_axis(np.asarray(on_host(conv).connection_weights()), index[..., None], axis=1)


def copy_gathered(source: BatchNorm, target: BatchNorm, channels: np.ndarray) -> None:
    """Copy scale, bias, mean and variance of the given channels of `source` to `target`."""
    for name in ("scale", "bias", "mean", "var"):
        getattr(target, name).set_value(jax.device_put(np.asarray(getattr(source, name)[...])[channels]))
    target.batches.set_value(jnp.zeros((), jnp.int32))  # the official conversion restarts the count


def _halve_classifier(model: nnx.Module) -> None:
    if not (isinstance(model, Network) and model.classifier_can_be_halved and isinstance(model.classifier, nnx.Linear)):
        raise UserError("only the classifier of a CondenseNet (v1) can be halved; CondenseNetV2 keeps all inputs")
    usage = model.usage
    model.form = Form(condensed=True, halved_classifier=True)
    model.classifier = halved(model.classifier)
    model.usage = usage  # the classes are the same


def halved(linear: nnx.Linear) -> CondensedLinear:
    """Return a Linear that reads only the half of the inputs with the largest L1 norm, in ascending order of norm."""
    assert linear.bias is not None
    kernel = np.asarray(linear.kernel[...])
    inputs, outputs = kernel.shape
    small = nnx.eval_shape(
        lambda: CondensedLinear(inputs, outputs, dtype=linear.dtype, param_dtype=kernel.dtype, rngs=nnx.Rngs(0))
    )
    kept = small.index.shape[0]
    index = np.argsort(np.abs(kernel).sum(1), kind="stable")[inputs - kept :]
    small.index.set_value(jax.device_put(index.astype(np.int32)))
    small.kernel.set_value(jax.device_put(kernel[index]))
    small.bias.set_value(linear.bias[...])
    return small
