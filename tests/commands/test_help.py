"""Help and mistyped commands: at once, and told in one line."""

import re
import subprocess
import sys

import pytest

from tests.commands.shell import DIGITS, REPOSITORY, Shell

VERBS = ["quickstart", "train", "eval", "condense", "export", "predict", "report", "prepare", "config", "completion"]
HELP = {
    "main.py": ("main.py", []),
    **{f"main.py {verb}": ("main.py", [verb]) for verb in VERBS},
    "convert_torch_weights.py": ("convert_torch_weights.py", []),
}


@pytest.mark.parametrize(("program", "verb"), HELP.values(), ids=HELP)
def test_help(program: str, verb: list[str], shell: Shell) -> None:
    printed = shell.succeeds(program, *verb, "--help")
    assert printed.startswith(f"usage: {' '.join([program, *verb])}")
    # Every option says something about itself, in words.
    for option, text in re.findall(r"^  (--[\w-]+)[^\n]*?(?:  +|\n +)(\S[^\n]*)$", printed, re.MULTILINE):
        assert re.match(r"[\w(]", text), f"{option}: {text}"
        assert not text.startswith("--"), f"{option} has no description"


def test_main_lists_its_verbs(shell: Shell) -> None:
    printed = shell.succeeds("main.py", "--help")
    assert all(re.search(rf"^ +{verb} +\w", printed, re.MULTILINE) for verb in VERBS)


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no verb": ([], "verb"),
    "unknown verb": (["trian", "--workdir", "run"], "trian"),
    "unknown flag": (["train", "--config", DIGITS, "--workdir", "run", "--epochs=3"], "--epochs=3"),
    "mistyped flag": (["train", "--config", DIGITS, "--wrokdir", "run"], "--workdir"),
    "flag of another verb": (["report", "--workdir", "run", "--config", DIGITS], "--config"),
    "override without a config": (["report", "--workdir", "run", "--config.epochs=3"], "--config.epochs=3"),
    "override in two words": (["train", "--config", DIGITS, "--workdir", "run", "--config.epochs", "3"], "3"),
    "missing flag": (["train", "--config", DIGITS], "--workdir"),
    "flag without a value": (["train", "--config", DIGITS, "--workdir"], "--workdir"),
    "word too many": (["report", "--workdir", "run", "now"], "now"),
    "unknown choice": (["eval", "--config", DIGITS, "--checkpoint", "x", "--weights", "best"], "best"),
    "number that is none": (["condense", "--checkpoint", "x", "--output", "y", "--num-classes", "ten"], "ten"),
}


@pytest.mark.parametrize(("arguments", "mention"), MISTAKES.values(), ids=MISTAKES)
def test_mistyped(arguments: list[str], mention: str, shell: Shell) -> None:
    assert mention in shell.refuses("main.py", *arguments)


def test_mistyped_conversion(shell: Shell) -> None:
    complaint = shell.refuses("convert_torch_weights.py", "--model", "cdnv2_a", "--input", "x")
    assert "--output" in complaint
    assert "see convert_torch_weights.py --help" in complaint


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False
    )


ALL_HELP = """
import sys
from cdnv2_jax.commands import convert, main

for program, arguments in [(main, []), *((main, [verb]) for verb in %r), (convert, [])]:
    try:
        program.main([*arguments, "--help"])
    except SystemExit as exit:
        assert exit.code == 0
heavy = {"jax", "flax", "torch", "orbax", "ml_collections", "matplotlib", "sklearn"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_help_does_not_wait_for_jax() -> None:
    result = _python("-c", ALL_HELP % VERBS)
    assert (result.returncode, result.stderr) == (0, "")


def test_script_refuses_in_one_line() -> None:
    """The real thing, with all that libraries might print beside us."""
    result = _python("main.py", "eval", "--config", "configs/digits.py:smoke", "--checkpoint", "no/such/checkpoint")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "main.py eval: no/such/checkpoint: no such file or directory\n"


def test_conversion_script_refuses_in_one_line() -> None:
    result = _python("convert_torch_weights.py", "--model", "cdnv2_d", "--input", "x", "--output", "no/such/output")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("convert_torch_weights.py: no model is called 'cdnv2_d': did you mean 'cdnv2_")
