"""Every command in the README and the documents is one: programs, verbs, flags, configs, extras and targets exist."""

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdnv2_jax.commands import convert, main
from cdnv2_jax.commands.read_config import read_config
from tests.docs.markdown import PAGES, ROOT, Command, commands
from tests.tables import table

COMMANDS = {f"{command.page}:{command.line} {command}": command for page in PAGES for command in commands(page)}
SCRIPTS = {
    "main.py": main.main,
    "convert_torch_weights.py": convert.main,
    "cdnv2": main.main,
    "cdnv2-convert": convert.main,
}
USERS_OWN = {"CONFIG", "FILE", "my_experiment.py"}
"""Configs that stand for one of the reader's."""
POSITIONAL_ONLY = {"benchmarks.detector_step"}
"""Modules that another starts, without a parser."""


class Parsed(Exception):
    """Arguments were taken: what they are, and which are left for others."""

    def __init__(self, rest: list[str]):
        self.rest = rest


@pytest.fixture
def stop_after_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs end with `Parsed` where they have read their arguments, before they do anything."""
    depth = 0

    def stopping(parse: Any, has_rest: bool) -> Any:
        def parse_and_stop(*arguments: Any, **named: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                found = parse(*arguments, **named)
            finally:
                depth -= 1
            if depth:  # subcommands have parsers of their own
                return found
            raise Parsed(found[1] if has_rest else [])

        return parse_and_stop

    for name, has_rest in (("parse_known_args", True), ("parse_args", False)):
        original = getattr(argparse.ArgumentParser, name)
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(original, has_rest))


@contextlib.contextmanager
def explained(capsys: pytest.CaptureFixture[str], command: Command) -> Iterator[None]:
    """A refusal fails the test with what the program said."""
    try:
        yield
    except SystemExit as exit:
        assert exit.code == 0, f"{command.page}:{command.line}: {command}\n{capsys.readouterr().err}"


def test_commands_were_found() -> None:
    found = {str(command) for command in COMMANDS.values()}
    assert len(found) > 60
    assert {"make quickstart", "pip install .", "cdnv2 --version"} <= found
    assert "cdnv2 report --workdir runs/digits" in found
    # In quotes within quotes, behind variables, in a loop.
    assert any("--process 1" in command for command in found)
    assert any(
        re.search(r"(main.py|cdnv2) train --config (configs/)?cifar(.py)?:condensenet_50,", line) for line in found
    )


@pytest.mark.usefixtures("stop_after_parsing")
@table("command", COMMANDS)
def test_command(command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    check_command(command, monkeypatch, capsys)


def check_command(command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What it starts is there and takes its arguments."""
    program, *arguments = command.words
    monkeypatch.chdir(ROOT)
    if program == "make":
        check_targets(arguments)
    elif program == "pip":
        check_requirements(arguments)
    elif arguments[:1] == ["-m"] and arguments[1] != "cdnv2_jax":
        check_module(arguments[1], arguments[2:], command, monkeypatch, capsys)
    elif arguments[:1] != ["-c"]:
        if arguments[:1] == ["-m"]:
            program, arguments = "cdnv2", arguments[2:]
        script = arguments.pop(0) if program == "python" else program
        if script not in SCRIPTS:
            assert (ROOT / script).is_file(), f"no script {script}"
            if arguments or not script.startswith("examples/"):  # an example takes none
                module = script.removesuffix(".py").replace("/", ".")
                check_module(module, arguments, command, monkeypatch, capsys)
        elif command.abbreviated:
            check_flags(script, arguments, capsys)
        else:
            check_script(script, arguments, command, capsys)
        check_config(arguments)


def check_targets(arguments: list[str]) -> None:
    """Each is a target of the Makefile."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(arguments) <= set(targets)


def check_requirements(arguments: list[str]) -> None:
    """Packages are there or installed; extras exist, ours in pyproject.toml and others' in their metadata."""
    assert arguments.pop(0) == "install"
    known = {".": set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])}
    for argument in arguments:
        if match := re.fullmatch(r"([\w.-]+)\[([\w,-]+)\]", argument):
            name, extras = match[1], set(match[2].split(","))
            assert name != "cdnv2-jax", "the package is on no index: install it from the checkout, '.[extra]'"
            if name not in known:
                known[name] = set(importlib.metadata.metadata(name).get_all("Provides-Extra") or [])
            assert extras <= known[name], f"{name} has the extras {sorted(known[name])}"
        elif not argument.startswith("-") and not (ROOT / argument).exists():
            importlib.metadata.metadata(argument)  # PackageNotFoundError for one that `.[dev]` does not have


def check_module(
    name: str,
    arguments: list[str],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is there, and takes these arguments."""
    assert importlib.util.find_spec(name), f"no module {name}"
    if name in POSITIONAL_ONLY:
        return
    program: Any = importlib.import_module(name).main
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with explained(capsys, command), pytest.raises(Parsed) as parsed:
        program(*([arguments] if inspect.signature(program).parameters else []))
    assert all(argument.startswith("--config.") for argument in parsed.value.rest)
    check_config(arguments)


def check_script(script: str, arguments: list[str], command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Its parser takes these arguments; a script alone stands for itself."""
    if not arguments:
        assert (ROOT / script).is_file() or script in SCRIPTS
    elif arguments == ["--version"]:
        with explained(capsys, command):
            SCRIPTS[script](arguments)
    else:
        with explained(capsys, command), pytest.raises(Parsed) as parsed:
            SCRIPTS[script](arguments)
        takes_overrides = "--config" in arguments
        assert all(takes_overrides and argument.startswith("--config.") for argument in parsed.value.rest)


def check_flags(script: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Verb and flags are in the help, of a command that leaves something out."""
    verb = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    with pytest.raises(SystemExit) as exit:
        SCRIPTS[script]([*verb, "--help"])
    assert exit.value.code == 0, f"no verb {verb}"
    known = capsys.readouterr().out
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    missing = [flag for flag in flags if not flag.startswith("--config.") and not re.search(rf"{flag}\b", known)]
    assert not missing


def check_config(arguments: list[str]) -> None:
    """The config exists, with this variant, and takes what is overridden."""
    if "--config" in arguments and arguments[-1] != "--config":
        spec = arguments[arguments.index("--config") + 1]
        overrides = [argument for argument in arguments if argument.startswith("--config.")]
        if spec not in USERS_OWN and not spec.startswith("-") and "--config.key=value" not in overrides:
            assert read_config(spec, overrides)


@pytest.mark.usefixtures("stop_after_parsing")
@table(
    "wrong",
    [
        "python main.py trian --config configs/digits.py --workdir x",
        "python main.py train --config configs/digits.py --wrokdir x",
        "python main.py train --config configs/digit.py --workdir x",
        "python main.py train --config configs/digits.py:fast --workdir x",
        "python main.py train --config configs/digits.py --workdir x --config.epoch=1",
        "python -m benchmarks.sweeps",
        "python -m benchmarks.sweep --model",
        "python convert_torch_weights.py --input x --output y",
        "cdnv2 train --config digit --workdir x",
        "cdnv2 completion tcsh",
        "make tests",
        "pip install .[tests]",
        "pip install cdnv2-jax[export]",
        "python docs/no_such_drawings.py",
    ],
)
def test_what_would_be_found(wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands with a mistake do not pass."""
    command = Command("page", 1, tuple(wrong.split()), abbreviated=False)
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception, ModuleNotFoundError)):
        check_command(command, monkeypatch, capsys)


def test_program_names_are_the_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Started as `cdnv2`, usage and complaints say `cdnv2`."""
    monkeypatch.setattr(sys, "argv", [str(Path("bin") / "cdnv2"), "report"])
    with pytest.raises(SystemExit) as exit:
        main.main(["report"])
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("cdnv2 report: ")
    assert main.main(["report", "--workdir", "no/such/run"]) == 2
    assert capsys.readouterr().err.startswith("cdnv2 report: --workdir no/such/run")
