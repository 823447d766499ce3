"""Errors that are the user's to mend."""

import importlib
from typing import Any


class UserError(ValueError):
    """A mistake in what was asked for: a path, a name, a file's contents, a setting.

    Its message is one line that says what is wrong, where, and what to do; the command line prints it and exits
    with status 2.
    """


class LostProcess(RuntimeError):
    """Another process of the same run has stopped; nothing to mend here. Its message is one line."""


def shorten(items: list[str], most: int = 8) -> str:
    """The items joined by commas, cut after `most` with the number that is left."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def one_line(error: BaseException, longest: int = 300) -> str:
    """What an exception says, on one line: the first line of its message and, of a longer one, the last."""
    message: object = error
    while (
        isinstance(message, Exception) and len(message.args) == 1 and isinstance(message, LookupError | AttributeError)
    ):
        message = message.args[0]  # a KeyError prints its message in quotes, and some wrap one another
    lines = [line.strip() for line in str(message).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def import_optional(module: str, extra: str) -> Any:
    """The module, or a UserError that says which extra of ours brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(f"this needs the package {package}: pip install 'cdnv2-jax[{extra}]'") from error
