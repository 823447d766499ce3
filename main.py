"""The command line of the package.

    python main.py train    --config digits --workdir runs/digits [--config.key=value …]
    python main.py eval     --config digits --checkpoint PATH
    python main.py condense --checkpoint PATH --output PATH
    python main.py report   --workdir DIR

Without installation; once installed, it is `cdnv2`.
A user's mistake is reported in one line on standard error, with exit status 2.
"""

import sys

from cdnv2_jax.commands.main import program

if __name__ == "__main__":
    sys.exit(program())
