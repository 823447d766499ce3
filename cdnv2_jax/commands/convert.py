"""`python convert_torch_weights.py`, or `cdnv2-convert` once the package is installed."""

import argparse
from collections.abc import Sequence

from cdnv2_jax.commands import arguments as flags
from cdnv2_jax.commands.arguments import OneLineParser, guarded, print_taken, program_name
from cdnv2_jax.errors import UserError
from cdnv2_jax.stopping import run_program


def program() -> int:
    """Run the command line with signals handled, and return the exit status."""
    return run_program(main)


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert one checkpoint and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.halve_classifier and not options.condense:
        parser.error("--halve-classifier is an option of condensing: add --condense")
    return guarded(lambda: _to_torch(options) if options.to_torch else _from_torch(options), parser.prog)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=program_name("convert_torch_weights.py", "cdnv2-convert"),
        description="Convert official PyTorch checkpoints to ours, and back.",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="the network, e.g. cdnv2_a")
    parser.add_argument(
        "--input",
        type=flags.path,
        required=True,
        metavar="PATH",
        help="official file or .safetensors; with --to-torch, a directory of ours",
    )
    parser.add_argument(
        "--output", type=flags.path, required=True, metavar="PATH", help="directory, or file with --to-torch"
    )
    parser.add_argument("--condense", action="store_true", help="condense the masked network first")
    parser.add_argument(
        "--halve-classifier",
        action="store_true",
        help="with --condense, CondenseNet (v1): halve the classifier's inputs, as the official conversion does; "
        "changes logits",
    )
    parser.add_argument("--to-torch", action="store_true", help="convert our checkpoint to an official file")
    parser.add_argument(
        "--weights",
        choices=("auto", "ema", "model"),
        default="auto",
        help="which weights of a file (auto: EMA if any)",
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="classes (default: as in the file)")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it exists")
    return parser


def _from_torch(options: argparse.Namespace) -> None:
    from cdnv2_jax import condense, save
    from cdnv2_jax.files import refuse_existing
    from cdnv2_jax.networks.family import model_entry
    from cdnv2_jax.terminal import say
    from cdnv2_jax.weights.checkpoint import is_checkpoint
    from cdnv2_jax.weights.open import open_network
    from cdnv2_jax.weights.torch_reading import kind_of

    refuse_existing(options.output, options.overwrite)
    usual = model_entry(options.model).architecture.num_classes
    if is_checkpoint(options.input):
        raise UserError(f"{options.input} is a directory, a checkpoint of ours already: use it, or add --to-torch")
    if options.input.is_dir():
        kind_of(options.input)
    opened = open_network(options.input, model=options.model, weights=options.weights, num_classes=options.num_classes)
    model, classes = opened.network, opened.network.architecture.num_classes
    if model.name != options.model:
        raise UserError(f"{options.input} holds a {model.name}: give --model {model.name}")
    if options.num_classes not in (None, classes):
        raise UserError(f"{options.input} has {classes} classes: leave out --num-classes {options.num_classes}")
    if options.condense:
        model = condense(model, halve_classifier=options.halve_classifier)
    metadata = {"converted_from": str(options.input), "weights": options.weights}
    save(options.output, model, metadata=metadata, overwrite=options.overwrite)
    print_taken(opened.taken)
    if classes != usual:
        say(f"classes: {classes}, as in the file (a {model.name} usually has {usual})")
    say(f"{model.name} ({model.form_name}): {options.output}")


def _to_torch(options: argparse.Namespace) -> None:
    from cdnv2_jax import condense, load
    from cdnv2_jax.devices import start_devices
    from cdnv2_jax.files import refuse_existing
    from cdnv2_jax.networks.family import model_entry
    from cdnv2_jax.terminal import say
    from cdnv2_jax.weights.torch_file import save_torch_checkpoint

    refuse_existing(options.output, options.overwrite, file=True)
    model_entry(options.model)
    start_devices()
    model = load(options.input)
    if model.name != options.model:
        raise UserError(f"{options.input} holds a {model.name}, not a {options.model}")
    if options.condense:
        model = condense(model, halve_classifier=options.halve_classifier)
    save_torch_checkpoint(options.output, model)
    say(f"{model.name} ({model.form_name}): {options.output}")
