"""Networks with random weights, images for them, and the results to expect: PyTorch's, in float64 on the CPU."""

import copy
import math
from functools import cached_property
from typing import Literal

import jax
import numpy as np
import torch
from flax import nnx
from jax.typing import DTypeLike
from torch import nn

from benchmarks.agreement import Results, logits_of, our_results, torch_results
from benchmarks.networks import example_labels, nchw, pruned_pair, twin_of
from benchmarks.peers.torch_inference import TorchPeer
from benchmarks.peers.torch_training import TorchTrainer
from benchmarks.training import OPTIMIZER, SMOOTHING, our_program
from cdnv2_jax import condense, create_model
from cdnv2_jax.layers.dense_kernels import with_dense_kernels
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import model_entry
from cdnv2_jax.weights.torch_file import model_from_state_dict
from tests.torch_twin import CondenseNetTwin

Work = Literal["training", "condensed", "masked"]

MOST_IMAGES = 8
BLOCKS = 6  # along each side of an image


class Problem:
    """A network with random weights and the images that implementations must agree on.

    Attributes:
      work: what is computed.
      name: of the model.
      images: float32 [n, h, w, 3].
      labels: int64 [n].
      twin: the network in PyTorch; for inference fully pruned, with the running statistics of the images.
    """

    def __init__(self, work: Work, name: str, images: int = MOST_IMAGES, size: int | None = None):
        entry = model_entry(name)
        self.work: Work = work
        self.name = name
        self.images = varied_images(images, size or entry.image_size)
        self.labels = example_labels(images, entry.architecture.num_classes)
        self.twin = twin_of(create_model(name, rngs=nnx.Rngs(0))) if work == "training" else pruned_pair(name)[1]
        vary_norms(self.twin)
        if work != "training":
            calibrate(self.twin, self.images)

    def model(self, dtype: DTypeLike | None = None) -> CondenseNet:
        """Our network with these weights, in evaluation mode; it computes in `dtype`, or in float32."""
        architecture = model_entry(self.name).architecture
        model = model_from_state_dict(self.twin.state_dict(), architecture, name=self.name, dtype=dtype)
        assert isinstance(model, CondenseNet)
        return condense(model) if self.work == "condensed" else model

    def twin_copy(self) -> CondenseNetTwin:
        """A copy of the twin, which training changes."""
        return copy.deepcopy(self.twin)

    @cached_property
    def expected(self) -> Results:
        """The results in float64 on the CPU."""
        twin, images = self.twin_copy().double(), self.images.astype(np.float64)
        if self.work == "training":
            call = TorchTrainer()(twin, images, self.labels, OPTIMIZER, SMOOTHING)
            return torch_results(call, twin, self.twin)
        with torch.no_grad():
            return logits_of(twin(torch.from_numpy(nchw(images))).numpy())


def varied_images(batch: int, size: int) -> np.ndarray:
    """Make images that differ in colour, contrast and coarse structure, so that logits and gradients depend on them.

    Returns:
      float32 [batch, size, size, 3]; the same ones on every call.
    """
    random = np.random.default_rng(0)
    block = math.ceil(size / BLOCKS)
    coarse = random.normal(size=(batch, BLOCKS, BLOCKS, 3)).repeat(block, 1).repeat(block, 2)[:, :size, :size]
    fine = 0.5 * random.normal(size=(batch, size, size, 3))
    contrast, colour = random.uniform(0.5, 2.0, (batch, 1, 1, 1)), random.normal(size=(batch, 1, 1, 3))
    return (contrast * (coarse + fine) + colour).astype(np.float32)


@torch.no_grad()
def vary_norms(twin: nn.Module) -> None:
    """Give BatchNorm layers random scales and shifts; after initialisation they are all one and zero."""
    random = torch.Generator().manual_seed(0)
    for norm in _norms(twin):
        norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=random))
        norm.bias.copy_(0.4 * torch.rand(norm.bias.shape, generator=random) - 0.2)


@torch.no_grad()
def calibrate(twin: nn.Module, images: np.ndarray) -> None:
    """Set the running statistics to those of the images, as training would; leaves the twin in evaluation mode."""
    norms = _norms(twin)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    twin.train()(torch.from_numpy(nchw(images)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    twin.eval()


def _norms(twin: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)]


def in_torch(problem: Problem, device: str, *, bfloat16: bool = False) -> Results:
    """Compute the results in PyTorch, uncompiled; bfloat16 under autocast."""
    twin = problem.twin_copy()
    if problem.work == "training":
        trainer = TorchTrainer(channels_last=True, device=device, bfloat16=bfloat16)
        call = trainer(twin, problem.images, problem.labels, OPTIMIZER, SMOOTHING)
        return torch_results(call, twin, problem.twin)
    peer = TorchPeer(channels_last=True, device=device, bfloat16=bfloat16)
    return logits_of(np.asarray(peer(twin, problem.work)(problem.images)()))


def in_jax(problem: Problem, dtype: DTypeLike | None = None) -> Results:
    """Compute our results, with the precision of products that `jax.default_matmul_precision` says."""
    model = problem.model(dtype)
    if problem.work == "training":
        step, state, batch = our_program(model, problem.images, problem.labels)
        return our_results(step, state, batch, model, problem.twin)[1]
    graph, state = nnx.split(with_dense_kernels(model))  # as `eval` does
    forward = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    return logits_of(np.asarray(forward(state, problem.images)))
