"""Masked → condensed: the same function with only the kept connections stored."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation
from cdnv2_jax.layers.learned import MaskedConv
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.networks.condensenet.dense_layer import DenseLayer, Form
from cdnv2_jax.networks.condensenet.network import CondenseNet, abstract_network
from cdnv2_jax.networks.network import Network


def condense(model: Network, *, halve_classifier: bool = False) -> CondenseNet:
    """The condensed network of a fully pruned one; the same logits, `model` is left as it is.

    Of n connections in each of G groups n / C are stored: LGC's kernel [n, m] becomes [G, n / C, m / G], SFR's [m, n]
    becomes [G, m / G, n / C], each with the int32 index [G, n / C] of the channels that were kept.

    Args:
      model: masked, every layer at its last stage.
      halve_classifier: also keep only the half of the classifier's inputs with the largest L1 norm, as the official
        conversion of CondenseNet (v1) does without fine-tuning; this changes the logits.

    Raises:
      UserError: already condensed, not fully pruned (the first such layer is named), or of another family.
    """
    if not isinstance(model, CondenseNet):
        raise UserError(f"{model.name} has nothing to condense: all of its connections are fixed")
    if model.form.condensed:
        raise UserError(f"{model.name} is condensed already")
    if halve_classifier and model.architecture.head_width is not None:
        raise UserError("only the classifier of a CondenseNet (v1) is halved; CondenseNetV2 keeps it whole")
    form = Form(condensed=True, halved_classifier=halve_classifier)
    condensed = abstract_network(
        model.architecture, form, name=model.name, dtype=model.dtype, param_dtype=model.stem.kernel.dtype
    )
    for name in ("stem", "norm_last", "se_last", "fc"):
        if getattr(model, name) is not None:
            nnx.update(getattr(condensed, name), nnx.state(getattr(model, name)))
    for number, (source, target) in enumerate(zip(model.dense_layers(), condensed.dense_layers(), strict=True)):
        _condense_layer(source, target, where=f"dense layer {number + 1}")
    if isinstance(condensed.classifier, CondensedLinear):
        halve_linear(model.classifier, condensed.classifier)
    else:
        nnx.update(condensed.classifier, nnx.state(model.classifier))
    return condensed


def _condense_layer(source: DenseLayer, target: DenseLayer, where: str) -> None:
    assert isinstance(source.lgc, MaskedConv) and isinstance(target.lgc, CondensedGroupConv)
    index = kept_connections(source.lgc, f"{where}, learned group convolution")
    target.lgc.index.set_value(jnp.asarray(index))
    target.lgc.kernel.set_value(jnp.asarray(kept_weights(source.lgc, index)))
    copy_gathered(source.lgc.norm, target.lgc.norm, index.reshape(-1))
    nnx.update(target.conv, nnx.state(source.conv))
    if source.se is not None and target.se is not None:
        nnx.update(target.se, nnx.state(source.se))
    if isinstance(source.sfr, MaskedConv) and isinstance(target.sfr, CondensedReactivation):
        index = kept_connections(source.sfr, f"{where}, sparse feature reactivation")
        target.sfr.index.set_value(jnp.asarray(index))
        target.sfr.kernel.set_value(jnp.asarray(kept_weights(source.sfr, index).transpose(0, 2, 1)))
        copy_gathered(source.sfr.norm, target.sfr.norm, np.arange(source.sfr.norm.features))


def kept_connections(conv: MaskedConv, where: str) -> np.ndarray:
    """int32 [G, n / C]: the channels each group kept, ascending. UserError unless every group kept just n / C."""
    mask = np.asarray(conv.mask[...])
    counts = mask.sum(-1)
    if (counts != conv.kept).any():
        wrong = int(np.flatnonzero(counts != conv.kept)[0])
        raise UserError(
            f"{where}: group {wrong} has {counts[wrong]} connections, a condensed one {conv.kept}; "
            f"prune the network to its last stage first"
        )
    return np.nonzero(mask)[1].reshape(counts.size, conv.kept).astype(np.int32)


def kept_weights(conv: MaskedConv, index: np.ndarray) -> np.ndarray:
    """[G, n / C, m]: the weights of the kept connections."""
    return np.take_along_axis(np.asarray(conv.connection_weights()), index[..., None], axis=1)


def copy_gathered(source: BatchNorm, target: BatchNorm, channels: np.ndarray) -> None:
    """Fills `target`, over gathered channels, from `source`; the two normalise those channels alike."""
    for name in ("scale", "bias", "mean", "var"):
        getattr(target, name).set_value(jnp.asarray(np.asarray(getattr(source, name)[...])[channels]))
    target.batches.set_value(jnp.zeros((), jnp.int32))  # the official conversion starts counting anew


def halve_linear(source: nnx.Linear | CondensedLinear, target: CondensedLinear) -> None:
    """Keeps the half of a Linear's inputs with the largest L1 norm, least important of them first."""
    assert source.bias is not None
    kernel = np.asarray(source.kernel[...])
    kept = target.index.shape[0]
    index = np.argsort(np.abs(kernel).sum(1), kind="stable")[len(kernel) - kept :]
    target.index.set_value(jnp.asarray(index, jnp.int32))
    target.kernel.set_value(jnp.asarray(kernel[index]))
    target.bias.set_value(source.bias[...])
