"""PyTorch as a peer: eager or compiled by inductor, NCHW or channels_last, on a CPU or a GPU."""

import copy
import dataclasses

import numpy as np
import torch
from torch import Tensor

from benchmarks.networks import Form, nchw
from benchmarks.peers.folded import folded
from benchmarks.peers.peer import Loaded
from benchmarks.peers.torch_compiler import compiled, others_warnings_ignored
from benchmarks.timing import Call
from tests.torch_twin import CondenseNetTwin, converted


@dataclasses.dataclass(frozen=True)
class TorchPeer:
    """Runs the twin as a user of PyTorch would.

    Attributes:
      channels_last: memory format of weights and images; otherwise NCHW.
      compile: with `torch.compile`, once per shape; on a GPU replayed as CUDA graphs.
      autotune: compile with mode "max-autotune".
      fold: whether to fold the converted network's `index` matrices away.
      device: "cpu" or "cuda".
      bfloat16: run under autocast.
    """

    channels_last: bool = False
    compile: bool = False
    autotune: bool = False
    fold: bool = False
    device: str = "cpu"
    bfloat16: bool = False

    def __call__(self, twin: CondenseNetTwin, form: Form) -> Loaded:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        # `to` works in place, and other peers use the same twin.
        network = copy.deepcopy(twin) if form == "masked" else converted(twin, halve_classifier=False)
        network = folded(network) if self.fold and form == "condensed" else network
        network = network.eval().to(self.device, memory_format=layout)  # pyright: ignore[reportCallIssue]
        forward = compiled(network, self.device, autotune=self.autotune) if self.compile else network

        def load(images: np.ndarray) -> Call:
            on_device = torch.from_numpy(nchw(images)).to(self.device, memory_format=layout)

            def call() -> Tensor:
                with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
                    return forward(on_device).float().cpu()

            if self.compile:
                with others_warnings_ignored():
                    call()
            return call

        return load
