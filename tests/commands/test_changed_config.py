"""Going on with a run whose config is not quite the same, and asking to go on where there is nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from cdnv2_jax import UserError, load
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.workdir import Workdir
from tests.commands.interrupted import RUN
from tests.commands.runs import checkpoints_of, records_of
from tests.commands.shell import DIGITS, Shell
from tests.weights.networks import assert_same_network

TRAIN = ("main.py", "train", *RUN, "--workdir", "run")


@pytest.mark.parametrize("there", ["nothing", "an empty directory"])
def test_nothing_to_resume(there: str, shell: Shell) -> None:
    if there != "nothing":
        Path("run").mkdir()
    assert "--resume: --workdir run holds no run to resume" in shell.refuses(*TRAIN, "--resume")


@pytest.mark.usefixtures("interrupted")
def test_changed_config(shell: Shell) -> None:
    """Refused by the names of the fields, until the changes are accepted; then they hold from here on."""
    changes = ("--config.optimizer.learning_rate=0.03", "--config.data.shift=1", "--config.data.workers=0")
    for resume in ((), ("--resume",)):
        complaint = shell.refuses(*TRAIN, *changes, *resume)
        assert "holds a run of another config (data.shift, optimizer.learning_rate differ)" in complaint
        assert "--accept-changes" in complaint
    assert "resuming after step 3" in shell.succeeds(*TRAIN, *changes, "--accept-changes")
    rates = {record["step"]: record["learning_rate"] for record in records_of(Path("run"), "train")}
    assert rates[3] > 0.03 > rates[4]
    assert json.loads(Path("run/config.json").read_text())["data"]["shift"] == 1


@pytest.mark.usefixtures("interrupted")
def test_bookkeeping_may_change(uninterrupted: Path, shell: Shell) -> None:
    """Nothing of it changes what is trained."""
    bookkeeping = {
        "data.eval_batch_size": 77,
        "data.max_broken_images": 3,
        "data.directory": "elsewhere",
        "log_every_steps": 2,
        "keep_checkpoints": 3,
    }
    shell.succeeds(*TRAIN, *(f"--config.{field}={value}" for field, value in bookkeeping.items()))
    assert checkpoints_of(Path("run")) == {"3", "6", "9"}
    assert [record["step"] for record in records_of(Path("run"), "train")] == [1, 2, 3, 4, 5, 4, 6, 8, 9]
    _assert_same_networks(uninterrupted)


def _assert_same_networks(uninterrupted: Path) -> None:
    """All that assert_ends_like asks for but what bookkeeping is there to change."""
    for network in ("masked", "condensed", "best"):
        assert_same_network(load(Path("run", network)), load(uninterrupted / network))


@pytest.mark.usefixtures("interrupted")
def test_settings_added_to_the_schema_count_with_their_defaults(shell: Shell) -> None:
    """A run begun before a field existed lacks it in its config.json: that is a change like any other.

    Unless it is known what such a run did: it did not turn photographs, and multiplied as JAX does by default.
    """
    config = json.loads(Path("run/config.json").read_text())
    del config["accumulate"], config["data"]["exif_orientation"], config["model"]["precision"]
    Path("run/config.json").write_text(json.dumps(config))
    assert "(data.exif_orientation, accumulate differ)" in shell.refuses(*TRAIN)
    older = ("--config.data.exif_orientation=False",)
    assert "(accumulate differ)" in shell.refuses(*TRAIN, *older)
    assert "(model.precision, accumulate differ)" in shell.refuses(*TRAIN, *older, "--config.model.precision=high")


def _claim(workdir: Workdir, config: RunConfig, data: dict[str, dict[str, Any]]) -> None:
    with workdir.claimed(config, data) as note:
        assert note == ""


def test_changed_data(tmp_path: Path) -> None:
    """A run's data are those that its first start found, until changes are accepted."""
    config = read_config(DIGITS, [])
    facts = {"train": {"images": 5, "fingerprint": "a"}, "val": {"images": 2, "fingerprint": "b"}}
    others = {**facts, "val": {"images": 2, "fingerprint": "c"}}
    _claim(Workdir(tmp_path / "run"), config, facts)
    _claim(Workdir(tmp_path / "run"), config, facts)
    with pytest.raises(UserError, match=r"a run on other images \(val: names, sizes or labels differ\): restore"):
        _claim(Workdir(tmp_path / "run"), config, others)
    _claim(Workdir(tmp_path / "run", accept_changes=True), config, others)
    _claim(Workdir(tmp_path / "run"), config, others)
    _claim(Workdir(tmp_path / "run", overwrite=True), config, facts)
    (tmp_path / "run/data.json").unlink()  # as in a run of an older version
    _claim(Workdir(tmp_path / "run"), config, others)


def test_steps_that_cannot_be_returned_to(tmp_path: Path) -> None:
    config = read_config(DIGITS, [])
    with pytest.raises(UserError, match=r"--from-step 3: .* holds no checkpoint of this step: there are none"):
        _claim(Workdir(tmp_path / "run", from_step=3), config, {})
    for name in ("20", "100", "140.orbax-checkpoint-tmp"):
        (tmp_path / "run" / "checkpoints" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"--from-step 3: .* holds no checkpoint of this step: there are 20, 100$"):
        _claim(Workdir(tmp_path / "run", from_step=3), config, {})
    with pytest.raises(UserError, match="give one of them"):
        _claim(Workdir(tmp_path / "run", overwrite=True, from_step=20), config, {})
