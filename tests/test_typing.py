"""Type checkers know the public API: they accept a program that uses it well and flag what it gets wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CONSUMER = """
from pathlib import Path
from typing import assert_type

import jax
import numpy as np
from flax import nnx

import cdnv2_jax
from cdnv2_jax.layers.cost import Cost
from cdnv2_jax.layers.learned import MaskedConv
from cdnv2_jax.networks.family import ModelEntry
from cdnv2_jax.networks.network import Architecture, Network

network = cdnv2_jax.create_model("cdnv2_a", rngs=nnx.Rngs(0), num_classes=10, stages=(1, 1, 1, 1, 1))
assert_type(network, Network)
assert_type(network(jax.numpy.ones((1, 224, 224, 3))), jax.Array)
assert_type(network.architecture, Architecture)
assert_type(network.form.condensed, bool)
assert_type(network.masked_convs(), list[MaskedConv])
assert_type(cdnv2_jax.condense(network), Network)
assert_type(cdnv2_jax.count_flops(network, 224), Cost)
assert_type(cdnv2_jax.count_flops(network, 224).flops, int)
assert_type(cdnv2_jax.list_models(), list[str])
assert_type(cdnv2_jax.load(Path("network")), Network)
assert_type(cdnv2_jax.to_torch_state_dict(network), dict[str, np.ndarray])
cdnv2_jax.prune(network, 3)
cdnv2_jax.prune(nnx.Sequential(network), 3)
cdnv2_jax.save("network", network, metadata={"from": "here"}, overwrite=True)
cdnv2_jax.register("mine", ModelEntry(network.architecture, 224))

cdnv2_jax.create_model("cdnv2_a", rngs=0)  # wrong
cdnv2_jax.create_model(3, rngs=nnx.Rngs(0))  # wrong
cdnv2_jax.create_models  # wrong
network.masks  # wrong
network.form.pruned  # wrong
network.form.condensed = True  # wrong
network.architecture.depth  # wrong
cdnv2_jax.prune(network, "last")  # wrong
cdnv2_jax.prune("cdnv2_a", 3)  # wrong
cdnv2_jax.condense(network, halve=True)  # wrong
cdnv2_jax.count_flops(network)  # wrong
cdnv2_jax.count_flops(network, 224).gflops  # wrong
cdnv2_jax.save(network, "network")  # wrong
cdnv2_jax.load(3)  # wrong
cdnv2_jax.register("mine", network)  # wrong
"""


@pytest.mark.slow  # pyright reads JAX and Flax: a quarter of a minute
def test_consumer(tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER, encoding="utf-8")
    settings = {"include": ["consumer.py"], "extraPaths": [str(ROOT)], "reportUnusedExpression": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    found = json.loads(done.stdout)["generalDiagnostics"]
    lines = CONSUMER.splitlines()
    flagged = {lines[diagnostic["range"]["start"]["line"]]: diagnostic["message"] for diagnostic in found}
    wrong = {line for line in lines if line.endswith("# wrong")}
    assert flagged.keys() == wrong, {line: flagged.get(line) for line in flagged.keys() ^ wrong}
