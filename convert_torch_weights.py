"""Convert official PyTorch checkpoints to ours, and back.

python convert_torch_weights.py --model cdnv2_a --input X.pth.tar --output PATH [--condense]
python convert_torch_weights.py --model cdnv2_a --input PATH --output X.pth.tar --to-torch
"""

import sys

from cdnv2_jax.commands.convert import program

if __name__ == "__main__":
    sys.exit(program())
