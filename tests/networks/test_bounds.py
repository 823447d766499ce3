"""Every number that a file may bring has an upper bound, and a description costs nothing before it is refused."""

import tracemalloc
import typing
from typing import Any

import jax
import pytest
from flax import nnx

from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation, check_indices
from cdnv2_jax.networks.family import FAMILIES, blank_network
from cdnv2_jax.networks.network import Form
from cdnv2_jax.schema import Field, fields_of
from tests.tables import table
from tests.twin_models import SMALL_V2

DESCRIBED = [*(family.architecture for family in FAMILIES.values()), DetectorSettings, Form]


def numbers(field: Field) -> bool:
    """Whether a field holds numbers that are not one of a list."""
    kinds = typing.get_args(field.kind) if field.base is tuple else (field.base,)
    return any(kind in (int, float) for kind in kinds)


@pytest.mark.parametrize("cls", DESCRIBED, ids=lambda cls: cls.__name__)
def test_every_number_has_an_upper_bound(cls: type) -> None:
    fields = fields_of(cls)
    assert [name for name, field in fields.items() if numbers(field) and field.most is None] == []


@table("form", [{"condensed": 1}, {"condensed": "yes"}, {"halved_classifier": None}])
def test_forms_are_true_or_false(form: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be one of False, True"):
        Form(**form)


def test_the_widest_network_takes_no_memory_before_it_has_values() -> None:
    wide = SMALL_V2.override({"stages": (8, 1, 1), "growth": (4096, 4096, 4096), "num_classes": 1_000_000})
    tracemalloc.start()
    state = nnx.state(blank_network(wide, name="wide"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) > 4e9
    assert peak < 5e7


@table(
    "layer, channels",
    [
        (CondensedGroupConv(8, 4, groups=2, kept=4, activation="relu", rngs=nnx.Rngs(0)), 8),
        (CondensedReactivation(4, 8, groups=2, kept=4, activation="relu", rngs=nnx.Rngs(0)), 8),
        (CondensedLinear(8, 3, rngs=nnx.Rngs(0)), 8),
    ],
)
def test_indices_out_of_range(layer: Any, channels: int) -> None:
    model, index = nnx.List([layer]), layer.index[...]
    for number, right in ((channels - 1, True), (channels, False), (-1, False), (-(2**31), False)):
        layer.index[...] = index.at[(-1,) * index.ndim].set(number)
        if right:
            check_indices(model, "file")
        else:
            with pytest.raises(UserError, match=rf"^file: 0/index must be in \[0, {channels}\)"):
                check_indices(model, "file")
