"""The table of lowerings: its choice by shape and back end, and what overrides it."""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers import lowering
from cdnv2_jax.layers.convolutions import grouped_conv
from cdnv2_jax.layers.lowering import KINDS, TABLE, VARIABLE, Shape, choose, override, shape_of, tracing_for
from tests.tables import table

SMALL, LARGE = Shape(1, 7, 64, 16, 8), Shape(32, 112, 64, 16, 8)


@pytest.fixture
def measured_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Two shapes measured on a CPU: grouped wins the small one, block-diagonal the large one and all gradients."""
    small = {"batch": 1, "side": 7, "inputs": 64, "outputs": 16, "groups": 8}
    gradient = {"grouped": 5, "block_diagonal": 4}
    rows = [
        {"kind": "grouped_conv", "shape": small, "forward": {"grouped": 1, "pairs": 2, "block_diagonal": 3}},
        {
            "kind": "grouped_conv",
            "shape": {**small, "batch": 32, "side": 112},
            "forward": {"grouped": 9, "pairs": 7, "block_diagonal": 8},
            "gradient": gradient,
        },
    ]
    file = tmp_path / "lowerings.json"
    file.write_text(json.dumps({"cpu": {"machine": {}, "rows": rows}}))
    monkeypatch.setattr(lowering, "TABLE", file)
    lowering._rows.cache_clear()
    yield
    lowering._rows.cache_clear()


@pytest.mark.usefixtures("measured_table")
def test_the_nearest_shape_decides() -> None:
    assert choose("grouped_conv", SMALL) == "grouped"
    assert choose("grouped_conv", Shape(2, 14, 128, 32, 8)) == "grouped"
    assert choose("grouped_conv", LARGE) == "pairs"
    assert choose("grouped_conv", Shape(16, 56, 32, 8, 4)) == "pairs"
    assert choose("grouped_conv", Shape(0, 0, 64, 16, 8)) == "grouped"


@pytest.mark.usefixtures("measured_table")
def test_only_what_is_possible_and_measured_for_the_direction_counts() -> None:
    assert choose("grouped_conv", LARGE, among=("grouped", "block_diagonal")) == "block_diagonal"
    assert choose("grouped_conv", SMALL, "gradient") == "block_diagonal"
    assert choose("grouped_conv", SMALL, among=("quads",)) == "quads"


@pytest.mark.usefixtures("measured_table")
def test_defaults_where_nothing_is_measured() -> None:
    assert choose("grouped_pointwise", LARGE) == "batched"
    with tracing_for("tpu"):
        found = [choose(kind, LARGE) for kind in KINDS]
        assert found == ["layers", "layers", "layers", "grouped", "batched", "scattered"]


def test_the_table_that_is_shipped() -> None:
    """Every row is of a known kind, has a shape and times of known lowerings."""
    for platform, part in json.loads(TABLE.read_text()).items():
        assert platform in ("cpu", "gpu", "tpu")
        assert part["machine"]
        for row in part["rows"]:
            Shape(**row["shape"])
            assert set(row) >= {"kind", "shape"}
            for direction in set(row) - {"kind", "shape"}:
                assert direction in ("forward", "gradient")
                assert set(row[direction]) <= set(KINDS[row["kind"]])
                assert all(milliseconds > 0 for milliseconds in row[direction].values())


def test_overrides_nest_and_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "grouped_conv=quads, grouped_pointwise=block_diagonal")
    assert choose("grouped_conv", SMALL) == "quads"
    with override(grouped_conv="grouped", condensed_block="layers"):
        assert choose("grouped_conv", SMALL) == "grouped"
        with override(grouped_conv="pairs"):
            assert choose("grouped_conv", SMALL) == "pairs"
            assert choose("condensed_block", LARGE) == "layers"
            assert choose("grouped_pointwise", SMALL) == "block_diagonal"
        assert choose("grouped_conv", SMALL) == "grouped"
    assert choose("grouped_conv", SMALL) == "quads"


def test_an_override_that_is_not_possible_does_not_count() -> None:
    with override(grouped_conv="quads"):
        assert choose("grouped_conv", LARGE, among=("grouped",)) == "grouped"


def test_an_override_is_seen_by_functions_that_were_traced_before() -> None:
    groups = []

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
        jaxpr = jax.make_jaxpr(lambda x, kernel: grouped_conv(x, kernel, 2))(x, kernel)
        groups.extend(
            line.params.get("feature_group_count")
            for line in jaxpr.eqns
            if line.primitive.name == "conv_general_dilated"
        )
        return grouped_conv(x, kernel, 2)

    x, kernel = jnp.ones((1, 3, 3, 4)), jnp.ones((3, 3, 2, 4))
    for name in ("grouped", "block_diagonal", "grouped"):
        with override(grouped_conv=name):
            run(x, kernel)
    assert groups == [2, 1]


@table(
    "text, message",
    [
        ("grouped_conv", "'grouped_conv' must be kind=lowering"),
        ("gruoped_conv=grouped", "did you mean 'grouped_conv'"),
        ("x=grouped", "there are condensed_block, masked_block, training_block, grouped_conv, grouped_pointwise"),
        ("grouped_conv=fast", "no lowering 'fast': there are grouped, pairs, quads, block_diagonal"),
    ],
)
def test_mistakes(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, _, name = text.partition("=")
    if name:
        with pytest.raises(UserError, match=message), override(**{kind: name}):
            pass
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UserError, match=message):
        choose("grouped_conv", SMALL)


def test_shape_of_a_map() -> None:
    assert shape_of(jnp.ones((2, 4, 9, 6)), outputs=3, groups=3) == Shape(2, 6.0, 6, 3, 3)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_no_back_end_uses_a_lowering_that_nobody_looked_at(platform: str) -> None:
    rows = json.loads(TABLE.read_text())[platform]["rows"]
    for kind in ("grouped_conv", "grouped_pointwise", "condensed_pointwise"):
        for direction in ("forward", "gradient"):
            assert any(row.get(direction) for row in rows if row["kind"] == kind), kind


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_accelerators_merge_all_groups_of_large_maps(platform: str) -> None:
    """XLA's grouped convolution with one output per group takes 8 times as long on a TPU, by its compiler."""
    with tracing_for(platform):
        for kind, lowering in (("grouped_conv", "block_diagonal"), ("condensed_pointwise", "scattered")):
            shape = Shape(128, 112, 32, 8, 8) if kind == "grouped_conv" else Shape(128, 112, 16, 32, 8)
            assert choose(kind, shape) == choose(kind, shape, "gradient") == lowering
