"""The command line of the package.

    python main.py train    --config configs/digits.py --workdir runs/digits [--config.key=value …]
    python main.py eval     --config configs/digits.py --checkpoint PATH
    python main.py condense --checkpoint PATH --output PATH
    python main.py report   --workdir DIR

A user's mistake is reported in one line on standard error, with exit status 2.
"""

import sys

from cdnv2_jax.commands.main import program

if __name__ == "__main__":
    sys.exit(program())
