"""Every mistake in a config or an override is one line that says what and where, before anything is written."""

from pathlib import Path

import pytest

from tests.commands.shell import DIGITS, IMAGENET, REPOSITORY, Shell


def _refused(shell: Shell, *arguments: str, config: str | Path = DIGITS) -> str:
    complaint = shell.refuses("main.py", "train", "--config", config, "--workdir", "run", *arguments)
    assert str(config).removesuffix(":smoke") in complaint or arguments
    return complaint


OVERRIDES: dict[str, tuple[str, list[str]]] = {
    "unknown model": ("model.name=cdnv2_cifar_111", ["'cdnv2_cifar_111'", "did you mean 'cdnv2_cifar_110'"]),
    "unknown field": ("optimizer.learning_rat=1", ["learning_rat", "'learning_rate'"]),
    "unknown part": ("optimiser.learning_rate=1", ["optimiser", "'optimizer'"]),
    "unknown field of the network": (
        "model.overrides.stags=(1,)",
        ["config.model.overrides has no 'stags'", "'stages'"],
    ),
    "number that is a word": ("epochs=many", ["epochs", "many"]),
    "whole number that is none": ("epochs=1.5", ["epochs", "1.5"]),
    "rate that is a word": ("optimizer.learning_rate=high", ["learning_rate", "high"]),
    "switch that is a word": ("optimizer.nesterov=perhaps", ["nesterov", "perhaps"]),
    "part that is a number": ("optimizer=3", ["optimizer", "3"]),
    "no epochs": ("epochs=0", ["config.epochs must be an integer >= 1, got 0"]),
    "empty batches": ("data.batch_size=0", ["config.data.batch_size must be an integer >= 1, got 0"]),
    "negative rate": (
        "optimizer.learning_rate=-1",
        ["config.optimizer.learning_rate must be", ">= 0, got -1"],
    ),
    "rate that is NaN": ("optimizer.learning_rate=nan", ["config.optimizer.learning_rate", "nan"]),
    "infinite decay": ("optimizer.weight_decay=inf", ["config.optimizer.weight_decay", "inf"]),
    "too much momentum": ("optimizer.momentum=1.5", ["config.optimizer.momentum", "in [0, 1], got 1.5"]),
    "too much smoothing": ("label_smoothing=2", ["config.label_smoothing", "in [0, 1], got 2"]),
    "seed out of range": ("seed=-1", ["config.seed must be an integer in [0, 4294967295], got -1"]),
    "seed too long": (f"seed={10**25}", ["config.seed"]),
    "unknown source": ("data.source=digit", ["'digit'", "did you mean 'digits'"]),
    "source without its directory": ("data.source=image_folder", ["config.data.directory is empty", "train/CLASS"]),
    "unknown crop": ("data.crop=shfit", ["config.data.crop", "did you mean 'shift'"]),
    "negative shift": ("data.shift=-1", ["config.data.shift must be an integer >= 0, got -1"]),
    "unknown augmentation": ("data.rand_augment=rand-x9", ["rand-x9"]),
    "too likely": ("data.erase_probability=1.5", ["config.data.erase_probability", "in [0, 1], got 1.5"]),
    "two channels": ("data.mean=(0.5,0.5)", ["config.data.mean must hold 3 numbers"]),
    "no spread": ("data.std=(0.5,0.0,0.5)", ["config.data.std"]),
    "unknown statistics": ("batch_norm=local", ["config.batch_norm must be one of global, replica, got 'local'"]),
    "parts that do not divide": ("accumulate=7", ["config.accumulate 7 does not divide"]),
    "unknown type": ("model.dtype=flot32", ["config.model.dtype", "flot32"]),
    "type that cannot be trained in": ("model.dtype=int32", ["config.model.dtype", "int32"]),
    "batch larger than the data": ("data.batch_size=1438", ["batch_size 1438", "1437 images"]),
    "image size of no digit": ("data.image_size=9", ["image_size", "multiple of 8, got 9"]),
    "too few classes": ("model.num_classes=5", ["10 classes", "5"]),
    "channels that do not divide": ("model.overrides.groups=5", ["block 1, layer 1", "are not divisible", "5"]),
    "precision by its nickname": ("model.precision=tf32", ["config.model.precision must be one of", "'tf32'"]),
    "type by its nickname": ("model.dtype=bf16", ["config.model.dtype must be one of", "bfloat16", "'bf16'"]),
    "field that the file does not name": (
        "model.overrides.bottleneck=0",
        ["config.model.overrides", "bottleneck", "got 0"],
    ),
    "unequal numbers of blocks": (
        "model.overrides.growth=(8,)",
        ["stages, growth need one number", "got 3, 1"],
    ),
}


@pytest.mark.parametrize(("override", "mentions"), OVERRIDES.values(), ids=OVERRIDES)
def test_override(override: str, mentions: list[str], shell: Shell) -> None:
    complaint = _refused(shell, f"--config.{override}")
    for mention in mentions:
        assert mention in complaint


def test_batch_that_has_no_variance(shell: Shell) -> None:
    """One image of which the last block sees one pixel: batch normalisation cannot train on that."""
    deep = ("--config.model.overrides.stages=(1,1,1,1)", "--config.model.overrides.growth=(8,8,8,8)")
    complaint = _refused(shell, *deep, "--config.data.image_size=8", "--config.data.batch_size=1")
    assert "batch_size" in complaint


def test_override_without_a_value(shell: Shell) -> None:
    assert "epochs" in _refused(shell, "--config.epochs")


def test_override_before_the_config(shell: Shell) -> None:
    """The order of flags does not matter: the mistake reported is the one made."""
    complaint = shell.refuses("main.py", "train", "--config.epochs=0", "--workdir", "run", "--config", DIGITS)
    assert "config.epochs must be an integer >= 1" in complaint


def test_no_such_config(shell: Shell) -> None:
    complaint = _refused(shell, config=REPOSITORY / "configs" / "digit.py")
    assert "no such file" in complaint
    assert str(REPOSITORY / "configs" / "digits.py") in complaint


def test_config_is_a_directory(shell: Shell) -> None:
    assert "configs is not a file" in _refused(shell, config=REPOSITORY / "configs")


@pytest.mark.parametrize(
    ("config", "mentions"),
    [
        (f"{REPOSITORY}/configs/digits.py:smoky", ["'smoky'", "'smoke'"]),
        (f"{IMAGENET}:cdnv2_d", ["'cdnv2_d'", "cdnv2_a"]),
    ],
)
def test_unknown_variant(config: str, mentions: list[str], shell: Shell) -> None:
    complaint = _refused(shell, config=config)
    for mention in mentions:
        assert mention in complaint


BEGIN = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from configs.digits import get_config as digits

def get_config():
    config = digits("smoke").unlock()
"""

FILES: dict[str, tuple[str, list[str]]] = {
    "syntax error": ("def get_config(:\n    pass\n", ["syntax"]),
    "error while it runs": ("def get_config():\n    return 1 / 0\n", ["division by zero"]),
    "import that fails": ("import no_such_module\n", ["no_such_module"]),
    "exit": ("import sys\nsys.exit(0)\n", []),
    "nothing in it": ("", ["get_config"]),
    "None for a config": ("def get_config():\n    return None\n", []),
    "number for a config": ("def get_config():\n    return 3\n", []),
    "empty config": (
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n",
        ["config lacks", "config.model", "config.epochs"],
    ),
    "unknown field": (
        f"{BEGIN}    config.epoch = 3\n    return config\n",
        ["config has no 'epoch', did", "'epochs'?"],
    ),
    "unknown field of a part": (
        f"{BEGIN}    config.data.image_sise = 8\n    return config\n",
        ["config.data has no 'image_sise', did you mean 'image_size'?"],
    ),
    "missing field": (f"{BEGIN}    del config.data.source\n    return config\n", ["lacks config.data.source"]),
    "text for a number": (
        f"{BEGIN}    del config.epochs\n    config.epochs = 'ten'\n    return config\n",
        ["config.epochs", "an integer >= 1", "'ten'"],
    ),
    "truth for a number": (
        f"{BEGIN}    del config.epochs\n    config.epochs = True\n    return config\n",
        ["config.epochs", "an integer >= 1", "True"],
    ),
    "nothing for a number": (
        f"{BEGIN}    del config.epochs\n    config.epochs = None\n    return config\n",
        ["config.epochs", "an integer >= 1", "None"],
    ),
    "number for a part": (
        f"{BEGIN}    del config.data\n    config.data = 3\n    return config\n",
        ["config.data", "3"],
    ),
    "number for a list": (f"{BEGIN}    config.model.overrides.stages = 3\n    return config\n", ["stages"]),
    "text for a list": (f"{BEGIN}    config.model.overrides.stages = '111'\n    return config\n", ["stages"]),
    "out of range": (
        f"{BEGIN}    config.data.shift = -1\n    return config\n",
        ["config.data.shift", "got -1"],
    ),
}


@pytest.mark.parametrize(("text", "mentions"), FILES.values(), ids=FILES)
def test_config_file(text: str, mentions: list[str], shell: Shell) -> None:
    path = shell.directory / "mine.py"
    path.write_text(text, encoding="utf-8")
    complaint = _refused(shell, config=path)
    assert "Traceback" not in complaint
    for mention in mentions:
        assert mention in complaint


def test_eval_checks_its_config_alike(shell: Shell) -> None:
    complaint = shell.refuses("main.py", "eval", "--config", DIGITS, "--checkpoint", "x", "--config.epoch=1")
    assert "did you mean 'epochs'" in complaint
