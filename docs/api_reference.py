"""Generate the API reference as HTML from the docstrings.

    python -m docs.api_reference [--output site] [--public-only]

--public-only restricts it to `cdnv2_jax.__all__`; the default is every module except those of the command line.
"""

import argparse
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pdoc
import pdoc.render
from rich.console import Console

import cdnv2_jax
from benchmarks.options import run
from cdnv2_jax.commands.arguments import OneLineParser

# Listed explicitly, because pdoc does not look beyond `__all__`.
PARTS = [f"cdnv2_jax.{part.name}" for part in pkgutil.iter_modules(cdnv2_jax.__path__) if part.name != "commands"]


def api_reference(options: argparse.Namespace, console: Console) -> None:
    """Write the pages."""
    for name in cdnv2_jax.__all__:
        # Public names are imported on first use, but pdoc documents only attributes that exist.
        setattr(cdnv2_jax, name, getattr(cdnv2_jax, name))
    pdoc.render.configure(docformat="google", footer_text=f"cdnv2-jax {cdnv2_jax.__version__}")
    pdoc.pdoc("cdnv2_jax", *([] if options.public_only else PARTS), output_directory=options.output)
    console.print(f"written to {options.output / 'index.html'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = OneLineParser(
        prog="python -m docs.api_reference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, default=Path("site"), metavar="DIRECTORY", help="(default: site)")
    parser.add_argument("--public-only", action="store_true", help="only the names in cdnv2_jax.__all__")
    return run(parser, api_reference, arguments)


if __name__ == "__main__":
    sys.exit(main())
