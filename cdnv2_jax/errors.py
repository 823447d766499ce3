"""Errors that the user can correct, and helpers for their messages."""

import difflib
import importlib
import shlex
import sys
from collections.abc import Collection
from typing import Any


class UserError(ValueError):
    """A mistake in the request: a path, a name, the contents of a file, a setting.

    Its message is one line: what is wrong, where, and what to do. The command line prints it and exits with status 2.
    """


class RunFailure(RuntimeError):
    """A failure of what a run needs, not of the request: memory, a worker, a disk that does not answer.

    Its message is one line, as a UserError's. The command line prints it and exits with status 1.
    """


class LostProcess(RunFailure):
    """Another process of the same run has stopped; this one is not at fault."""


NOT_FINITE = "returns NaN or infinity: its weights are damaged, or too large to compute with"
"""What is wrong with a network, after its name."""


def shorten(items: list[str], most: int = 8, longest: int = 200) -> str:
    """Join items with commas: the first, each cut in its middle, as long as they are few and fit; the rest is counted.

    Args:
      items: what to list; the first is always named.
      most: how many to name.
      longest: length of the named ones together.
    """
    named: list[str] = []
    for item in items[:most]:
        item = cut(item, 80)
        if named and len(", ".join([*named, item])) > longest:
            break
        named.append(item)
    more = f" and {len(items) - len(named)} more" if len(items) > len(named) else ""
    return ", ".join(named) + more


def suggestion(name: str, known: Collection[str], listed: str = "there are") -> str:
    """Return what to do about an unknown name: "did you mean 'a'?" of the nearest one, or else the list of all."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{listed} {', '.join(known)}"


def cut(text: str, longest: int) -> str:
    """Return a text of at most `longest` characters, its middle left out if necessary; both ends say more."""
    if len(text) <= longest:
        return text
    end = longest // 2
    return f"{text[: longest - end - 1]}…{text[-end:]}"


def one_line(error: BaseException, longest: int = 300) -> str:
    """Shorten an exception's message to one line: its first line and, if it has several, its last."""
    message: object = error
    while (
        isinstance(message, Exception) and len(message.args) == 1 and isinstance(message, LookupError | AttributeError)
    ):
        message = message.args[0]  # a KeyError prints its message in quotes, and some errors wrap another
    lines = [line.strip() for line in str(message).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def import_optional(module: str, extra: str) -> Any:
    """Import a module; if it is missing, raise a UserError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this needs the package {module.partition('.')[0]}: {install_command(extra)}") from error


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this interpreter's packages, for an installed package or a checkout."""
    from importlib import metadata  # takes long

    installed = any(metadata.distributions(name="cdnv2-jax"))
    what = f"'cdnv2-jax[{extra}]'" if installed else f"-e '.[{extra}]'"
    return f"{shlex.quote(sys.executable)} -m pip install {what}"
