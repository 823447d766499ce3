"""The command line, run inside the test's own process."""

import dataclasses
import sys
from pathlib import Path

import pytest

from cdnv2_jax.commands import convert, main
from tests.weights.networks import contents

REPOSITORY = Path(__file__).parents[2]
DIGITS = f"{REPOSITORY}/configs/digits.py:smoke"
IMAGENET = f"{REPOSITORY}/configs/imagenet.py"

TINY = (
    "--config.model.overrides.stages=(1,)",
    "--config.model.overrides.growth=(8,)",
    "--config.data.image_size=8",
)
"""Makes of the digits' network the smallest there is, which compiles in seconds."""

PROGRAMS = {"main.py": main.main, "convert_torch_weights.py": convert.main}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True)
class Shell:
    """Runs commands; `directory` is all that they may write to."""

    capsys: pytest.CaptureFixture[str]
    directory: Path

    def run(self, program: str, *arguments: str | Path) -> Outcome:
        """The command's outcome, whatever it is."""
        self.capsys.readouterr()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [program])  # a command's lines start with how it was started
                status = PROGRAMS[program]([str(argument) for argument in arguments])
        except SystemExit as exit:  # what argparse does about --help and unknown flags
            status = exit.code if isinstance(exit.code, int) else 1
        printed = self.capsys.readouterr()
        return Outcome(status, printed.out, printed.err)

    def succeeds(self, program: str, *arguments: str | Path) -> str:
        """What a command printed that must end well."""
        outcome = self.run(program, *arguments)
        assert (outcome.status, outcome.err) == (0, "")
        return outcome.out

    def refuses(self, program: str, *arguments: str | Path) -> str:
        """The one line that a command must say before it gives up: status 2, and not a file touched."""
        before = contents(self.directory)
        outcome = self.run(program, *arguments)
        assert outcome.status == 2, outcome
        assert outcome.err.endswith("\n") and outcome.err.count("\n") == 1, outcome.err
        assert outcome.err.startswith(program), outcome.err
        assert len(outcome.err) < 2500, outcome.err
        assert contents(self.directory) == before
        return outcome.err
