"""Time inference, condensed and masked, beside PyTorch and ONNX Runtime.

    python -m benchmarks.inference [--models cdnv2_a cdnv2_c] [--batches 1 32] [--forms condensed] [--peers onnx torch]

Ours: the compiled forward pass, NHWC, float32. Peers, all with the same random, fully pruned weights:
torch, torch_channels_last: the tests' PyTorch twin, eager; masked as in training, or converted as by the official code,
  with the dense 0/1 product `index` in each SFR.
torch_compile: the same compiled by inductor; torch_compile_folded: with `index` folded away.
onnx: ONNX Runtime on the converted twin, exported from PyTorch; all optimisations, one thread per core.
onnx_folded: the same with each SFR's `index` folded into one dense 1×1 convolution, as a careful user would do.
ours_masked: our masked network, beside the condensed one.
A peer whose logits differ from ours is refused.

All are timed in turn in one process, A B C A B C …. A ratio is the median over rounds of the peer's time over ours,
with lowest and highest. Floors: `benchmarks/floors.py`. Times vary with the machine and its load; quote ratios.
torch.compile takes about a minute per network, form and batch.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import numpy as np
from rich.console import Console

from benchmarks.comparison import OURS, admitted, compared
from benchmarks.floors import inference_floor
from benchmarks.machine import measured_rates
from benchmarks.networks import FORMS, Form, example_images, pruned_pair
from benchmarks.options import add_measuring, check_models, make_parser, positive, run
from benchmarks.peers import PEERS, Peer, chosen
from benchmarks.peers.peer import Loaded
from benchmarks.results import Entry, results_file, write_results
from benchmarks.tables import print_comparison
from benchmarks.timing import Call
from cdnv2_jax import condense
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import model_entry
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.programs import compiled_forward

SCRIPT = "inference"


class Contenders:
    """One model in one form, ours and the peers, ready for any batch and image size.

    Attributes:
      name: of the model.
      form: of ours; peers run their own masked or converted network.
    """

    def __init__(self, name: str, form: Form, peers: Mapping[str, Peer]):
        self.name, self.form = name, form
        masked, twin = pruned_pair(name)
        self._ours: dict[str, CondenseNet] = {OURS: masked}
        if form == "condensed":
            self._ours = {OURS: condense(masked), "ours_masked": masked}
        self._peers = {key: partial(peer.load, twin, form) for key, peer in peers.items() if form in peer.forms}
        self._loaded: dict[str, Loaded] = {}

    def entry(self, batch: int, size: int, rounds: int, seconds: float) -> Entry:
        """Time all contenders on one batch of `size` × `size` images."""
        images = example_images(batch, size)
        calls = {key: our_call(network, images) for key, network in self._ours.items()}
        peers, refused = admitted({key: partial(self._peer_call, key, images) for key in self._peers}, calls[OURS]())
        floor = inference_floor(model_entry(self.name).architecture, batch, size)
        what = {"model": self.name, "form": self.form, "batch": batch, "image_size": size}
        return what | compared(calls | peers, refused, floor, rounds, seconds)

    def _peer_call(self, key: str, images: np.ndarray) -> Call:
        if key not in self._loaded:
            self._loaded[key] = self._peers[key]()
        return self._loaded[key](images)


def our_call(network: Network, images: np.ndarray) -> Call:
    """Logits on the CPU, as the peers', by the compiled forward pass."""
    forward, on_device = compiled_forward(network), jax.device_put(images)
    return lambda: np.asarray(forward(on_device))


def inference(options: argparse.Namespace, console: Console) -> None:
    """Measure, print and write the results."""
    check_models(options.models)
    peers = chosen(options.peers, PEERS)
    path = results_file(options.output, SCRIPT)
    rates, entries = measured_rates(), []
    for name in options.models:
        for form in options.forms:
            contenders = Contenders(name, form, peers)
            for batch in options.batches:
                console.print(f"{name}, {form}, batch {batch} …")
                size = model_entry(name).image_size
                entries.append(contenders.entry(batch, size, options.rounds, options.seconds))
                write_results(path, SCRIPT, rates, entries)
    print_comparison("Inference", entries, rates, console)
    console.print(f"written to {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    parser.add_argument("--models", nargs="+", default=["cdnv2_a", "cdnv2_b", "cdnv2_c"], metavar="NAME", help="models")
    parser.add_argument("--batches", nargs="+", type=positive, default=[1, 32], metavar="N", help="images per call")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="of the networks")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), metavar="NAME", help=f"of {', '.join(PEERS)}")
    add_measuring(parser)
    return run(parser, inference, arguments)


if __name__ == "__main__":
    sys.exit(main())
