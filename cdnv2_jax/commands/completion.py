"""Completion with the tab key: the verb `completion` prints a shell's code, which asks the program what may follow.

Light to import, and nothing is imported for it that takes long: the answer is there within a third of a second.
"""

import argparse
import os
from collections.abc import Iterator
from typing import Any

from cdnv2_jax.commands.shipped_configs import config_files, described
from cdnv2_jax.terminal import say

PROGRAMS = ("cdnv2", "cdnv2-convert")
CONFIG_SUFFIXES = ("py", "json")


def print_completion(shell: str) -> None:
    """Print the code that bash, zsh or fish is to evaluate."""
    from argcomplete.shell_integration import shellcode

    say(*shellcode(PROGRAMS, shell=shell).splitlines())


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer and exit if a shell's completion started this program; otherwise do nothing."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def configs(prefix: str, **_: Any) -> Iterator[str]:
    """Yield what may follow `--config`: names and files, or variants once there is a name and its colon."""
    from argcomplete.completers import FilesCompleter

    name, colon = prefix.partition(":")[:2]
    if not colon:
        yield from config_files()
        yield from FilesCompleter(CONFIG_SUFFIXES)(prefix)
    elif name in config_files():
        yield from described(name)[1]
