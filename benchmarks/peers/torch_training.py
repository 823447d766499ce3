"""One training step of the twin in PyTorch, with the same update as ours."""

import copy
import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import nchw
from benchmarks.peers.torch_compiler import compiled, others_warnings_ignored
from benchmarks.timing import Call
from cdnv2_jax.training.config import OptimizerConfig
from tests.torch_twin import CondenseNetTwin


@dataclasses.dataclass(frozen=True)
class TorchTrainer:
    """Trains the twin as a user of PyTorch would; each step is forward, backward and SGD's update.

    Attributes:
      channels_last: memory format of weights and images; otherwise NCHW.
      compile: forward and backward of network and loss with `torch.compile`, on a GPU replayed as CUDA graphs; the
        update is PyTorch's own.
      autotune: compile with mode "max-autotune".
      device: "cpu" or "cuda".
      bfloat16: forward under autocast.
    """

    channels_last: bool = False
    compile: bool = False
    autotune: bool = False
    device: str = "cpu"
    bfloat16: bool = False

    def __call__(
        self, twin: CondenseNetTwin, images: np.ndarray, labels: np.ndarray, config: OptimizerConfig, smoothing: float
    ) -> Call:
        """Return a call that makes one training step and returns the loss before it, a float.

        Args:
          twin: trained in place.
          images: float32 [b, h, w, 3].
          labels: int [b].
          config: of the optimizer, with a constant learning rate.
          smoothing: of the labels.
        """
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        network = twin.train().to(self.device, memory_format=layout)  # pyright: ignore[reportCallIssue]
        pixels = torch.from_numpy(nchw(images)).to(self.device, memory_format=layout)
        targets = torch.from_numpy(labels).to(self.device)
        optimizer = make_sgd(network, config)

        def loss_of(pixels: Tensor, targets: Tensor) -> Tensor:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
                return nn.functional.cross_entropy(network(pixels), targets, label_smoothing=smoothing)

        forward = compiled(loss_of, self.device, autotune=self.autotune) if self.compile else loss_of

        def call() -> float:
            optimizer.zero_grad()
            loss = forward(pixels, targets)
            loss.backward()
            optimizer.step()
            return loss.item()

        if not self.compile:
            return call
        buffers = copy.deepcopy(dict(network.named_buffers()))
        with others_warnings_ignored():  # compile without an update, so that all start from the same weights
            forward(pixels, targets).backward()
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
        return call


def make_sgd(network: nn.Module, config: OptimizerConfig) -> torch.optim.SGD:
    """Make SGD with weight decay on tensors of two or more dimensions only."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov)
