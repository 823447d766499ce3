"""`python -m cdnv2_jax VERB …` is `cdnv2 VERB …`, with this interpreter."""

import sys

from cdnv2_jax.commands.main import program

if __name__ == "__main__":
    sys.exit(program())
