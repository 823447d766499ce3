"""The configs that come with the package: found by name, listed and copied. `digits` is `configs/digits.py`, which an
installed package has inside.

Light to import, for the completion of commands.
"""

import runpy
import textwrap
from collections.abc import Sequence
from pathlib import Path

from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import refuse_existing, write_text
from cdnv2_jax.terminal import say

PACKAGE = Path(__file__).parents[1]


def config_files() -> dict[str, Path]:
    """Return the file of each config: those in the installed package, or those beside it in a checkout."""
    installed = PACKAGE / "configs"
    folder = installed if installed.is_dir() else PACKAGE.parent / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.py"))}


def with_path(spec: str) -> str:
    """Return `NAME[:variant]` as `PATH[:variant]`; anything that is not the name of a config stays as it is."""
    name, colon, variant = spec.partition(":")
    return f"{config_files().get(name, name)}{colon}{variant}"


def described(name: str) -> tuple[str, list[str]]:
    """Return the first line of a config's docstring, and `NAME:VARIANT` for each of its `VARIANTS`.

    Raises:
      UserError: its file, perhaps one that the user has added, does not run.
    """
    file = config_files()[name]
    try:
        module = runpy.run_path(str(file))
        purpose, variants = (module["__doc__"] or "").partition("\n")[0], module.get("VARIANTS", ())
        return purpose, [f"{name}:{variant}" for variant in variants]
    except (Exception, SystemExit) as error:  # a config file is a program and can raise anything
        raise UserError(f"{file} does not run ({one_line(error)}): mend it, or move it elsewhere") from error


def show_configs(spec: str | None, overrides: Sequence[str], copy: Path | None, *, overwrite: bool) -> None:
    """Do what the flags of the verb `config` say: print one config's settings, copy configs, or list them all.

    Raises:
      UserError: flags that do not go together, or as for `print_config` and `copy_configs`.
    """
    if copy is None and overwrite:
        raise UserError("--overwrite replaces what --copy writes: add --copy, or leave it out")
    if overrides and copy is not None:
        raise UserError(f"{overrides[0]}: --copy copies a config as it is: leave it out, and change the copy")
    if overrides and spec is None:
        raise UserError(f"{overrides[0]} changes a config: add --config and its name or file")
    if copy is not None:
        copy_configs(spec, copy, overwrite=overwrite)
    elif spec is None:
        list_configs()
    else:
        from cdnv2_jax.commands.config import print_config  # waits for JAX

        print_config(spec, overrides)


def list_configs() -> None:
    """Print the name, purpose and variants of every config that comes with the package."""
    found = {name: described(name) for name in config_files()}
    width = max(map(len, found), default=0)
    for name, (purpose, variants) in found.items():
        full = " ".join(variant for variant in variants if not variant.endswith("smoke"))
        lines = textwrap.wrap(full, 118 - width, break_long_words=False, break_on_hyphens=False)
        say(f"{name:{width}}  {purpose}", *(f"{'':{width}}  {line}" for line in lines))
    say("Each has a variant of a step or two without data: digits:smoke, imagenet:cdnv2_a,smoke.")


def copy_configs(spec: str | None, output: Path, *, overwrite: bool) -> None:
    """Copy one config of the package, or all of them, to where they can be changed.

    Args:
      spec: name of a config, perhaps with a variant, which a copy has like all others; None for all configs.
      output: a file, if its name ends in ".py" and `spec` is given; otherwise a directory.
      overwrite: replace files that exist.

    Raises:
      UserError: the package has no such config, or a file exists.
    """
    files = config_files()
    if spec is not None:
        name = spec.partition(":")[0]
        if name not in files:
            raise UserError(f"--copy copies configs of the package, not {name}: there are {', '.join(files)}")
        files = {name: files[name]}
    elif output.suffix == ".py":
        raise UserError(f"--copy {output} is one file: say which config goes there with --config, or give a directory")
    copies = {file: output if output.suffix == ".py" else output / file.name for file in files.values()}
    for copy in copies.values():
        refuse_existing(copy, overwrite, file=True)
    for file, copy in copies.items():
        write_text(copy, file.read_text(encoding="utf-8"))
        say(f"{file.stem} → {copy}")
