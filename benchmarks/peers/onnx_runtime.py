"""ONNX Runtime as a peer, on PyTorch's export of the converted twin."""

import dataclasses
import logging

import numpy as np
import onnxruntime
import torch
from torch import nn

from benchmarks.machine import cores
from benchmarks.networks import Form, nchw
from benchmarks.peers.folded import folded
from benchmarks.peers.peer import Loaded
from benchmarks.peers.torch_compiler import others_warnings_ignored
from benchmarks.timing import Call
from tests.torch_twin import CondenseNetTwin, converted


@dataclasses.dataclass(frozen=True)
class OnnxPeer:
    """Exports the twin once per image size, for any batch.

    Attributes:
      fold: whether to fold the `index` matrices away; otherwise the official conversion as it is.
    """

    fold: bool = False

    def __call__(self, twin: CondenseNetTwin, form: Form) -> Loaded:
        network = converted(twin, halve_classifier=False)
        network = folded(network) if self.fold else network
        sessions: dict[tuple[int, ...], onnxruntime.InferenceSession] = {}

        def load(images: np.ndarray) -> Call:
            inputs = nchw(images)
            size = inputs.shape[2:]
            if size not in sessions:
                sessions[size] = session(exported(network, size))

            def call(session: onnxruntime.InferenceSession = sessions[size]) -> object:
                return session.run(None, {"images": inputs})[0]

            return call

        return load


def exported(network: nn.Module, size: tuple[int, ...]) -> bytes:
    """Export a network to ONNX: input "images" float32 [any, 3, height, width], output the logits."""
    # It warns that torchvision's operators, which no network here uses, are missing.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    example = torch.zeros(2, 3, *size)
    with others_warnings_ignored():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=["images"],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("PyTorch exported nothing")
    return program.model_proto.SerializeToString()


def session(model: bytes) -> onnxruntime.InferenceSession:
    """Open a session on the CPU with all graph optimisations and one thread per core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
