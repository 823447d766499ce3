"""The implementations that ours is compared with, by their names in `--peers` and in the results."""

from collections.abc import Mapping
from typing import TypeVar

from benchmarks.peers.peer import Loaded, Peer, Trainer
from benchmarks.peers.torch_inference import TorchPeer
from benchmarks.peers.torch_training import TorchTrainer
from cdnv2_jax.errors import UserError
from tests.torch_twin import CondenseNetTwin

AnyPeer = TypeVar("AnyPeer")


def _onnx(fold: bool) -> Peer:
    def load(twin: CondenseNetTwin, form: str) -> Loaded:
        # Imported only when used: it needs ONNX Runtime and the exporter.
        from benchmarks.peers.onnx_runtime import OnnxPeer

        return OnnxPeer(fold)(twin, "condensed")

    title = "ONNX Runtime, index folded" if fold else "ONNX Runtime"
    return Peer(title, load, forms=("condensed",))


PEERS: dict[str, Peer] = {
    "torch": Peer("PyTorch", TorchPeer()),
    "torch_channels_last": Peer("PyTorch channels_last", TorchPeer(channels_last=True)),
    "torch_compile": Peer("torch.compile", TorchPeer(compile=True)),
    "torch_compile_folded": Peer("torch.compile, index folded", TorchPeer(compile=True, fold=True), ("condensed",)),
    "onnx": _onnx(fold=False),
    "onnx_folded": _onnx(fold=True),
}


TRAINERS: dict[str, Trainer] = {
    "torch": Trainer(PEERS["torch"].title, TorchTrainer()),
    "torch_channels_last": Trainer(PEERS["torch_channels_last"].title, TorchTrainer(channels_last=True)),
    "torch_compile": Trainer(PEERS["torch_compile"].title, TorchTrainer(compile=True)),
}


def chosen(names: list[str], peers: Mapping[str, AnyPeer]) -> dict[str, AnyPeer]:
    """Select peers by name, in the table's order; UserError for an unknown name."""
    for name in names:
        if name not in peers:
            raise UserError(f"--peers: unknown peer {name!r}: choose from {', '.join(peers)}")
    return {name: peer for name, peer in peers.items() if name in names}


__all__ = ["PEERS", "TRAINERS", "Peer", "Trainer", "chosen"]
