"""What docs/results.md is made from: intervals, commands, runs beside the official code's, pruning at random."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from scipy import stats

from benchmarks import pruned
from benchmarks.learning import agreement, outcome_table, read_official
from benchmarks.pruned import prune_at_random
from benchmarks.publish import command_of, networks_table, wilson_interval
from cdnv2_jax import prune
from cdnv2_jax.commands.main import main
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.layers.learned import masked_convs
from tests.commands.shell import DIGITS, TINY
from tests.weights.networks import network

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("right", "count"), [(0, 10), (5, 10), (9_380, 10_000)])
def test_wilson_interval(right: int, count: int) -> None:
    """That of SciPy."""
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson_interval(right / count, count), expected, atol=1e-5)


def test_command_of() -> None:
    """The flags make of the shipped config the run's; where the files were is the reader's own."""
    flags = ["--config.epochs=3", "--config.model.overrides.stages=(1,2,1)", "--config.data.directory=/tmp/x"]
    flags += ["--config.log_every_steps=1"]
    values = json.loads(json.dumps(dataclasses.asdict(read_config("digits", flags))))
    command = command_of(values, "digits").replace(" \\\n            ", " ").split(" ")
    assert command[:6] == ["cdnv2", "train", "--config", "digits", "--workdir", "RUN"]
    given = [word.replace("'", "") for word in " ".join(command[6:]).replace(", ", ",").split(" ")]
    assert sorted(given) == [
        "--config.data.directory=PICTURES",
        "--config.epochs=3",
        "--config.model.overrides.stages=[1,2,1]",
    ]
    again = read_config("digits", [*given, "--config.data.directory=/tmp/x", "--config.log_every_steps=1"])
    assert again == read_config("digits", flags)


def test_official_runs(tmp_path: Path) -> None:
    """Epochs, the converted network, and the share that each layer keeps of each source's connections."""
    line = {"loss": 1.5, "held_out_loss": 1.25, "held_out_accuracy": 0.5, "seconds": 3.0}
    lines = [{"kind": "epoch", "epoch": epoch, **line} for epoch in (1, 2)]
    lines.append({"kind": "converted", "held_out_loss": 1.3, "held_out_accuracy": 0.4})
    (tmp_path / "record.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = np.zeros((4, 2, 1, 1), bool), np.zeros((4, 6, 1, 1), bool)
    first[:2, 0] = True  # half of the outputs read one of the stem's two channels
    second[:, 2:4] = True  # all read half of the first layer's four
    masks: dict[str, Any] = {"a._mask": first, "b._mask": second}
    np.savez(tmp_path / "record.npz", **masks)
    run = read_official(tmp_path) | {"side": "official", "seed": 3}
    assert [epoch["epoch"] for epoch in run["epochs"]] == [1, 2]
    assert run["kept"] == [[0.25, 0.0], [None, 0.5]]
    ours = run | {"side": "ours", "kept": [[0.5, 0.0], [None, 1.0]]}
    assert agreement(run, [run, ours]) == pytest.approx(1)
    assert "| official code | 3 | 50.00% | 40.00% | 1.250 | 1.500 | 1.00 |" in outcome_table([ours, run])


@pytest.mark.soak  # trains for six epochs and evaluates nine networks, each of which is compiled
def test_stages_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage of a run of 6 epochs begins where the evaluation before it ended, and is followed by its own."""
    run = tmp_path / "run"
    six = ["epochs=6", "keep_checkpoints=9", "checkpoint_every_epochs=1", "eval_every_epochs=1", "data.batch_size=48"]
    flags = [*TINY, *(f"--config.{flag}" for flag in six)]
    assert main(["train", "--config", DIGITS, "--workdir", str(run), *flags]) == 0
    monkeypatch.setattr(pruned, "PRUNED", tmp_path)
    assert pruned.main([str(run), "--name", "cdnv2_fashion_mnist"]) == 0
    record = json.loads((tmp_path / "cdnv2_fashion_mnist.json").read_text())
    top1 = {point["epoch"]: point["top1"] for point in record["curve"]}
    found = [(e["epoch"], e["connections"], e["before"], e["an_epoch_later"]) for e in record["stages"]]
    assert found == [(epoch, 1 - epoch / 4, top1[epoch], top1[epoch + 1]) for epoch in (1, 2, 3)]


def test_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tables and both plots, from the committed figures and the network of that name."""
    monkeypatch.setattr(pruned, "DOCUMENT", document := tmp_path / "results.md")
    start, end = (mark.format(name="cdnv2_fashion_mnist") for mark in (pruned.START, pruned.END))
    document.write_text(f"before\n{start}\n{end}\nafter\n")
    (tmp_path / "images").mkdir()
    assert pruned.main(["--docs"]) == 0
    committed = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert document.read_text().partition(start)[2].partition(end)[0] in committed
    assert {file.name for file in (tmp_path / "images").iterdir()} == {
        "cdnv2_fashion_mnist_curve.png",
        "cdnv2_fashion_mnist_connections.png",
    }
    assert networks_table() in committed


def test_prune_at_random() -> None:
    """As many connections of each group as by the rule, of those that are left."""
    by_rule, at_random = (nnx.clone(network("partly pruned")) for _ in range(2))
    before = [np.array(conv.mask[...]) for conv in masked_convs(at_random)]
    prune(by_rule, 2)
    prune_at_random(at_random, 2)
    same = []
    for old, rule, random in zip(before, masked_convs(by_rule), masked_convs(at_random), strict=True):
        np.testing.assert_array_equal(np.sum(random.mask[...], 1), np.sum(rule.mask[...], 1))
        assert not (np.asarray(random.mask[...]) & ~old).any()
        same.append(np.array_equal(random.mask[...], rule.mask[...]))
    assert not all(same)
