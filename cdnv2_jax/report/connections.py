"""What a network learnt to connect, as arrays: who reads whose features, and which group reads which inputs.

Everything is read off the connections that are left, so that a masked network and its condensed form give the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedReactivation
from cdnv2_jax.layers.learned import MaskedConv
from cdnv2_jax.networks.condensenet.architecture import Architecture
from cdnv2_jax.networks.condensenet.network import CondenseNet


@dataclasses.dataclass(frozen=True)
class Connections:
    """The connections of one learned convolution.

    Attributes:
      kept: boolean [G, n], whether group g reads input j (of an SFR: updates output j).
      importance: float64 [G, n], Σ of the absolute weights of each connection; 0 where there is none.
    """

    kept: np.ndarray
    importance: np.ndarray

    @property
    def per_channel(self) -> np.ndarray:
        """float64 [n]: Σ over the groups, Σ_o |W · mask|[o, j] of input j (of an SFR: Σ_j of output o)."""
        return self.importance.sum(0)


@dataclasses.dataclass(frozen=True)
class LayerConnections:
    """Of one dense layer: its learned group convolution and its sparse feature reactivation (None in a v1)."""

    lgc: Connections
    sfr: Connections | None


def layer_connections(network: CondenseNet) -> list[LayerConnections]:
    """The learned connections of every dense layer, from the stem to the head; of a masked or a condensed network.

    Raises:
      UserError: a condensed network's index names a channel that there is not.
    """
    found = []
    for number, layer in enumerate(on_host(network).dense_layers()):
        sfr = None if layer.sfr is None else connections_of(layer.sfr, f"layer {number + 1}, SFR")
        found.append(LayerConnections(connections_of(layer.lgc, f"layer {number + 1}, LGC"), sfr))
    return found


def connections_of(conv: Any, where: str = "a convolution") -> Connections:
    """The connections of an LGC or an SFR, masked or condensed; UserError, which says `where`, for a broken index."""
    if isinstance(conv, MaskedConv):
        kept = np.asarray(conv.mask[...])
        return Connections(kept, np.where(kept, _absolute_sums(conv.connection_weights(), axis=-1), 0))
    if isinstance(conv, CondensedGroupConv):
        return _spread(conv.index[...], _absolute_sums(conv.kernel[...], axis=2), conv.in_channels, where)
    if isinstance(conv, CondensedReactivation):
        return _spread(conv.index[...], _absolute_sums(conv.kernel[...], axis=1), conv.out_channels, where)
    raise TypeError(f"{type(conv).__name__} has no learned connections")


def _absolute_sums(weights: Any, axis: int) -> np.ndarray:
    return np.abs(np.asarray(weights).astype(np.float64)).sum(axis)


def _spread(index: Any, importance: np.ndarray, channels: int, where: str) -> Connections:
    """From [G, kept] to [G, n]."""
    index = np.asarray(index)
    if index.size and not (index.min() >= 0 and index.max() < channels):
        raise UserError(f"{where}: its index goes from {index.min()} to {index.max()}, of {channels} channels")
    groups = np.arange(len(index))[:, None]
    kept, spread = np.zeros((len(index), channels), bool), np.zeros((len(index), channels))
    kept[groups, index] = True
    np.add.at(spread, (groups, index), importance)
    return Connections(kept, spread)


def on_host(network: CondenseNet) -> CondenseNet:
    """A copy with NumPy's arrays, to be looked at: with JAX's a hundred small operations would each be compiled."""
    graph, state = nnx.split(network)
    return nnx.merge(graph, jax.tree.map(np.asarray, state))


def layer_map(architecture: Architecture, per_channel: Sequence[np.ndarray]) -> np.ndarray:
    """How much each dense layer's learned convolution has to do with the features of each source before it.

    With `Connections.per_channel` of the LGCs it is figure 7(d) of the CondenseNetV2 paper, before its rescaling: which
    layer reads whose features. With those of the SFRs: which layer (column) updates whose features (row).

    Args:
      architecture: of the network.
      per_channel: of each of its L dense layers, one value for every channel that comes into it.

    Returns:
      [L, L]; rows are sources: the stem, then the new features of dense layers 1 … L − 1; columns are dense layers
      1 … L. An entry is the mean over the source's channels. NaN below the diagonal: no layer reads what comes later.
    """
    layers = architecture.dense_layers()
    starts = [0, *(channels for _, _, channels, _ in layers)]
    found = np.full((len(layers), len(layers)), np.nan)
    for target, values in enumerate(per_channel):
        if len(values) != layers[target][2]:
            raise ValueError(f"dense layer {target + 1} reads {layers[target][2]} channels, got {len(values)} values")
        for source in range(target + 1):
            found[source, target] = values[starts[source] : starts[source + 1]].mean()
    return found


def rescaled_columns(values: np.ndarray) -> np.ndarray:
    """Each column divided by its largest entry, so that it lies in [0, 1]; a column of zeros stays as it is.

    0 keeps its meaning, nothing at all, which it would lose if the smallest entry were subtracted too. NaN stays NaN.

    Args:
      values: [rows, columns], not negative; every column has a number.
    """
    largest = np.nanmax(values, axis=0)
    return values / np.where(largest > 0, largest, 1)


def block_ends(architecture: Architecture) -> list[int]:
    """The number of dense layers up to the end of each block but the last: where a map's dashed lines go."""
    return np.cumsum(architecture.stages)[:-1].tolist()


def shares_by_readers(kept: np.ndarray) -> np.ndarray:
    """[G + 1]: the share of the n channels that 0, 1, …, G groups read (of an SFR: update).

    Args:
      kept: boolean [G, n].
    """
    groups, channels = kept.shape
    return np.bincount(kept.sum(0), minlength=groups + 1) / channels
