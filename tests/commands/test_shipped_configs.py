"""Configs of the package by name: found, listed, copied."""

import ast
import itertools
import re
from pathlib import Path

import pytest

from cdnv2_jax.commands import shipped_configs
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.commands.shipped_configs import config_files, described
from cdnv2_jax.report.published import PUBLISHED
from tests.commands.shell import REPOSITORY, Shell

NAMES = sorted(path.stem for path in (REPOSITORY / "configs").glob("*.py"))


def test_a_name_is_its_file(shell: Shell) -> None:
    """From any directory, and before anything there that is called the same."""
    (shell.directory / "digits").mkdir()
    (shell.directory / "shapes").write_text("not a config")
    for spec in ("digits", "digits:smoke", "imagenet:cdnv2_b", "shapes:faster_rcnn,cdnv2_c,smoke"):
        name, colon, variant = spec.partition(":")
        assert read_config(spec, []) == read_config(f"{REPOSITORY}/configs/{name}.py{colon}{variant}", [])


@pytest.mark.parametrize("spec", ["digit", "digits.py", "Digits:smoke", "configs/digits", "./digits"])
def test_neither_name_nor_file(spec: str, shell: Shell) -> None:
    complaint = shell.refuses("main.py", "train", "--config", spec, "--workdir", "run")
    assert "no such file" in complaint and ", ".join(NAMES) in complaint


def test_variants_are_those_that_work() -> None:
    """Every one is listed, and those of detectors on COCO are what the paper has figures of."""
    assert [name.partition(":")[2] for name in described("digits")[1]] == ["full", "smoke"]
    coco = {f"coco:{detector},{backbone}" for detector, backbones in PUBLISHED.items() for backbone in backbones}
    assert set(described("coco")[1]) == coco | {f"{one},smoke" for one in coco}
    assert len(set(described("cifar")[1])) == 9 * 2 * 2


def test_list(shell: Shell) -> None:
    """The first line of each docstring, and every variant in words that can be typed."""
    printed, width = shell.succeeds("main.py", "config"), max(map(len, NAMES))
    for name in NAMES:
        docstring = ast.get_docstring(ast.parse((REPOSITORY / "configs" / f"{name}.py").read_text(encoding="utf-8")))
        assert docstring and f"{name:{width}}  {docstring.splitlines()[0]}\n" in printed
    listed = re.findall(r"(?<= )\w+:[\w,]+(?=[ \n])", printed)
    expected = itertools.chain(*(described(name)[1] for name in NAMES))
    assert [one for one in listed if "smoke" not in one] == [one for one in expected if "smoke" not in one]


def test_list_with_one_that_does_not_run(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout's configs are also the user's: one line says which file."""
    mine, broken = shell.directory / "mine.py", shell.directory / "broken.py"
    mine.write_text("def get_config(): ...")
    monkeypatch.setattr(shipped_configs, "config_files", lambda: {"mine": mine})
    assert shell.succeeds("main.py", "config").startswith("mine  \n")
    broken.write_text("from nowhere import something")
    monkeypatch.setattr(shipped_configs, "config_files", lambda: {"mine": mine, "broken": broken})
    assert f"{broken} does not run (No module named 'nowhere')" in shell.refuses("main.py", "config")


def test_copies(shell: Shell) -> None:
    """All or one, byte for byte; a copy works, and is not overwritten by accident."""
    shell.succeeds("main.py", "config", "--copy", "mine")
    shell.succeeds("main.py", "config", "--copy", "new/my.py", "--config", "digits:smoke")
    copies = sorted(Path("mine").iterdir())
    assert [copy.stem for copy in copies] == NAMES
    for copy, file in [
        *zip(copies, config_files().values(), strict=True),
        (Path("new/my.py"), config_files()["digits"]),
    ]:
        assert copy.read_bytes() == file.read_bytes()
    assert read_config("new/my.py:smoke", []) == read_config("digits:smoke", [])
    Path("mine/coco.py").unlink()
    assert "mine/cifar.py exists" in shell.refuses("main.py", "config", "--copy", "mine")
    shell.succeeds("main.py", "config", "--copy", "mine", "--overwrite")
    assert Path("mine/coco.py").is_file()


@pytest.mark.parametrize(
    ("flags", "mention"),
    [
        (("--copy", "all.py"), "--config"),
        (("--copy", "x", "--config", "mine.py"), ", ".join(NAMES)),
        (("--copy", "x", "--config", "digits", "--config.seed=1"), "--config.seed=1"),
        (("--config.seed=1",), "add --config"),
        (("--config", "digits", "--overwrite"), "--copy"),
    ],
)
def test_flags_that_do_not_go_together(flags: tuple[str, ...], mention: str, shell: Shell) -> None:
    assert mention in shell.refuses("main.py", "config", *flags)
