"""What docs/extend.md says to write works where it says to put it."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax import create_model
from cdnv2_jax.commands.main import main
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.data.sources import open as readers
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import MODELS
from cdnv2_jax.networks.zoo import list_models
from tests.docs.markdown import ROOT, python_blocks
from tests.tables import table

NETWORK, OVERRIDES, FAMILY, SOURCE, CONFIG, LOWERING, OVERRIDE = (
    block.text for block in python_blocks(ROOT / "docs" / "extend.md")
)


def run(*blocks: str) -> dict[str, Any]:
    """What the blocks define, run one after the other."""
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "docs/extend.md", "exec"), namespace)
    return namespace


def test_network() -> None:
    nnx = run(NETWORK, OVERRIDES)["nnx"]
    try:
        model = create_model("cdnv2_tiny", rngs=nnx.Rngs(0))
        model.eval()
        assert jax.eval_shape(model, jnp.ones((1, 32, 32, 3))).shape == (1, 10)
        assert list_models("cdnv2_t*") == ["cdnv2_tiny"]
    finally:
        del MODELS["cdnv2_tiny"]


def test_family() -> None:
    """The page shows the two lines around which the example is written."""
    example = (ROOT / "examples" / "own_network.py").read_text(encoding="utf-8")
    for line in ('Family("learned_resnet", ', "cdnv2_jax.register("):
        assert line.strip() in FAMILY
        assert line.strip(", ") in example.replace("\n    ", "")


def test_overrides() -> None:
    page = run(OVERRIDES)
    assert page["model"].architecture.stages == (2, 2)
    assert 0 < page["cost"].flops < 10**7


def write_npz(directory: Path, split: str, count: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), np.uint8)
    np.savez(directory / f"{split}.npz", images=images, labels=np.arange(count) % 2, class_names=["cat", "dog"])


def test_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = run(SOURCE)
    reader = readers.Reader(page["read_npz"], page["LAYOUT"])
    monkeypatch.setattr(readers, "READERS", {**readers.READERS, "npz": reader})
    monkeypatch.setattr(readers, "SOURCES", (*readers.SOURCES, "npz"))
    write_npz(tmp_path, "train", 5)
    source = readers.open_source("npz", directory=tmp_path, split="train", image_size=16, num_classes=2)
    assert (len(source), list(source.class_names)) == (5, ["cat", "dog"])
    assert (source[3].label, source[3].name) == (1, "npz train image 3")
    with pytest.raises(UserError, match=r"val\.npz: no such file: let DIRECTORY hold"):
        readers.open_source("npz", directory=tmp_path, split="val", image_size=16, num_classes=2)


@table(
    "changed, message",
    [
        ({"images": np.zeros((4, 8, 8), np.uint8)}, r"images uint8 \(4, 8, 8\)"),
        ({"images": np.zeros((3, 8, 8, 3), np.float32)}, "images float32"),
        ({"labels": np.array([0, 1, 2])}, "labels 0 to 2 for 2 classes"),
        ({"labels": None}, "lacks labels"),
    ],
)
def test_damaged_source(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {"images": np.zeros((3, 8, 8, 3), np.uint8), "labels": np.array([0, 1, 1]), "class_names": ["a", "b"]}
    kept = {name: array for name, array in (arrays | changed).items() if array is not None}
    np.savez(tmp_path / "val.npz", allow_pickle=False, **kept)
    with pytest.raises(UserError, match=message):
        run(SOURCE)["read_npz"](tmp_path, "val")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The page's, as a file outside of the project."""
    file = tmp_path / "my_experiment.py"
    file.write_text(f'"""Mine."""\n\n{CONFIG}')
    return file


def test_config(config: Path) -> None:
    full, smoke = read_config(str(config), []), read_config(f"{config}:smoke", ["--config.seed=3"])
    assert (full.epochs, full.data.batch_size, smoke.epochs, smoke.data.batch_size) == (20, 64, 1, 480)
    assert smoke.seed == 3


@pytest.mark.slow  # training, evaluation and the condensed network are compiled
def test_training_by_a_config_of_ones_own(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smallest = ["--config.model.overrides.stages=(1,)", "--config.model.overrides.growth=(8,)"]
    small = [*smallest, "--config.data.image_size=8"]
    assert main(["train", "--config", f"{config}:smoke", "--workdir", str(tmp_path / "run"), *small]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stages_passed"] == 7
    assert "cdnv2_cifar_110" in capsys.readouterr().out


def test_lowering() -> None:
    page = run(LOWERING, OVERRIDE)
    assert float(page["difference"]) < 1e-5
    assert np.array_equal(page["same"], page["grouped_conv"](page["x"], page["kernel"], 4, lowering="grouped"))
