"""A network's learned connections as arrays: which layer reads which features, and which group reads which inputs.

Only the remaining connections are used, so a masked network and its condensed form give the same arrays.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedReactivation
from cdnv2_jax.layers.learned import LearnedGroupConv, MaskedConv, on_host

LearnedLayer = MaskedConv | CondensedGroupConv | CondensedReactivation


@dataclasses.dataclass(frozen=True)
class Connections:
    """The connections of one learned convolution.

    Attributes:
      kept: boolean [G, n], whether group g reads input j (SFR: updates output j).
      importance: float64 [G, n], sum of the absolute weights of each connection; 0 where there is none.
    """

    kept: np.ndarray
    importance: np.ndarray

    @property
    def per_channel(self) -> np.ndarray:
        """Importance summed over groups, float64 [n]: Σ_o |W · mask|[o, j] of input j (SFR: Σ_j of output o)."""
        return self.importance.sum(0)


def learned_layers(network: nnx.Module) -> list[tuple[str, LearnedLayer]]:
    """Return (kind, layer) of every learned convolution, masked or condensed, in the order of their paths.

    The kind is "LGC" (learned group convolution) or "SFR" (sparse feature reactivation).
    """
    layers = [part for _, part in nnx.iter_modules(network) if isinstance(part, LearnedLayer)]
    return [("LGC" if isinstance(part, LearnedGroupConv | CondensedGroupConv) else "SFR", part) for part in layers]


def connections_by_kind(network: nnx.Module) -> dict[str, list[Connections]]:
    """Return {"LGC": connections of every LGC in order, "SFR": of every SFR} of a masked or condensed network.

    Raises:
      UserError: a condensed network's index names a channel that does not exist.
    """
    found: dict[str, list[Connections]] = {"LGC": [], "SFR": []}
    for kind, conv in learned_layers(on_host(network)):
        found[kind].append(connections_of(conv, f"layer {len(found[kind]) + 1}, {kind}"))
    return found


def connections_of(conv: LearnedLayer, where: str = "a convolution") -> Connections:
    """Return the connections of an LGC or SFR, masked or condensed; UserError, naming `where`, for a broken index."""
    if isinstance(conv, MaskedConv):
        kept = np.asarray(conv.mask[...])
        return Connections(kept, np.where(kept, _absolute_sums(conv.connection_weights(), axis=-1), 0))
    if isinstance(conv, CondensedGroupConv):
        return _spread(conv.index[...], _absolute_sums(conv.kernel[...], axis=2), conv.in_channels, where)
    return _spread(conv.index[...], _absolute_sums(conv.kernel[...], axis=1), conv.out_channels, where)


def _absolute_sums(weights: Any, axis: int) -> np.ndarray:
    return np.abs(np.asarray(weights).astype(np.float64)).sum(axis)


def _spread(index: Any, importance: np.ndarray, channels: int, where: str) -> Connections:
    """Scatter [G, kept] to [G, n]."""
    index = np.asarray(index)
    if index.size and not (index.min() >= 0 and index.max() < channels):
        raise UserError(f"{where}: its index values {index.min()} to {index.max()} do not fit {channels} channels")
    groups = np.arange(len(index))[:, None]
    kept, spread = np.zeros((len(index), channels), bool), np.zeros((len(index), channels))
    kept[groups, index] = True
    np.add.at(spread, (groups, index), importance)
    return Connections(kept, spread)


def layer_map(per_channel: Sequence[np.ndarray]) -> np.ndarray:
    """Compute how strongly each dense layer's learned convolution uses the features of each source before it.

    With `Connections.per_channel` of the LGCs this is figure 7(d) of the CondenseNetV2 paper before rescaling: which
    layer reads which features. With the SFRs': which layer (column) updates which features (row).

    Args:
      per_channel: for each of the L dense layers of a network, one value per input channel.

    Returns:
      [L, L]; rows are sources: the stem, then the new features of dense layers 1 … L − 1; columns are dense layers
      1 … L. An entry is the mean over the source's channels. NaN below the diagonal: no layer reads what comes later.
    """
    starts = [0, *(len(values) for values in per_channel)]
    if any(low >= high for low, high in itertools.pairwise(starts)):
        raise ValueError(f"later dense layers must read more channels, got {starts[1:]}")
    found = np.full((len(per_channel), len(per_channel)), np.nan)
    for target, values in enumerate(per_channel):
        for source in range(target + 1):
            found[source, target] = values[starts[source] : starts[source + 1]].mean()
    return found


def rescaled_columns(values: np.ndarray) -> np.ndarray:
    """Divide each column by its largest entry, so that it lies in [0, 1]; a column of zeros stays as it is.

    The smallest entry is not subtracted, so that 0 still means no connection. NaN stays NaN.

    Args:
      values: [rows, columns], non-negative; every column has an entry that is not NaN.
    """
    largest = np.nanmax(values, axis=0)
    return values / np.where(largest > 0, largest, 1)


def shares_by_readers(kept: np.ndarray) -> np.ndarray:
    """Return the fractions of the n channels that 0, 1, …, G groups read (SFR: update): [G + 1].

    Args:
      kept: boolean [G, n].
    """
    groups, channels = kept.shape
    return np.bincount(kept.sum(0), minlength=groups + 1) / channels
