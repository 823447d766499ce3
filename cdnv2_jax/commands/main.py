"""`python main.py VERB …`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from cdnv2_jax.commands.guard import OneLineParser, expect_no_more, guarded

WEIGHTS = ("auto", "ema", "model")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if hasattr(options, "config"):
        overrides = [argument for argument in rest if argument.startswith("--config.")]
        rest = [argument for argument in rest if not argument.startswith("--config.")]
        options.overrides = overrides
    expect_no_more(parser, rest)
    return guarded(lambda: options.action(options), f"main.py {options.verb}")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="main.py", description="Train, evaluate and condense CondenseNetV2.")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=OneLineParser)
    _train(verbs)
    _eval(verbs)
    _condense(verbs)
    _report(verbs)
    return parser


def _train(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "train", "train, prune and condense a network as a config says", _run_train)
    _config(verb)
    verb.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="where all results go")
    verb.add_argument("--overwrite", action="store_true", help="replace the finished run that --workdir holds")


def _eval(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "eval", "evaluate a checkpoint, ours or official, on a config's held-out data", _run_eval)
    _config(verb)
    verb.add_argument(
        "--checkpoint", type=Path, required=True, metavar="PATH", help="directory (ours) or file (official)"
    )
    verb.add_argument(
        "--weights", choices=WEIGHTS, default="auto", help="of an official file (auto: EMA if it has any)"
    )
    verb.add_argument("--output", type=Path, metavar="FILE.npz", help="also write logits and labels there")
    verb.add_argument("--overwrite", action="store_true", help="replace --output if it exists")


def _condense(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "condense", "turn a masked checkpoint, ours or official, into a condensed one", _run_condense)
    verb.add_argument(
        "--checkpoint", type=Path, required=True, metavar="PATH", help="directory (ours) or file (official)"
    )
    verb.add_argument("--output", type=Path, required=True, metavar="PATH", help="directory to make")
    verb.add_argument("--model", metavar="NAME", help="what an official file holds, if it does not say so itself")
    verb.add_argument(
        "--weights", choices=WEIGHTS, default="auto", help="of an official file (auto: EMA if it has any)"
    )
    verb.add_argument("--num-classes", type=int, metavar="N", help="of an official file (default: the model's usual)")
    verb.add_argument(
        "--halve-classifier",
        action="store_true",
        help="CondenseNet (v1): as the official conversion does; changes logits",
    )
    verb.add_argument("--overwrite", action="store_true", help="replace --output if it exists")


def _report(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "report", "draw a run's plots anew from its metrics", _run_report)
    verb.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="of a run")


def _add(
    verbs: argparse._SubParsersAction, name: str, purpose: str, action: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=purpose, description=f"{purpose.capitalize()}.")
    verb.set_defaults(action=action)
    return verb


def _config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--config",
        required=True,
        metavar="FILE[:variant]",
        help="config file; change its fields with --config.key=value",
    )


# The verbs are imported when they run, so that --help and a mistyped flag need not wait for JAX.


def _run_train(options: argparse.Namespace) -> None:
    from cdnv2_jax.commands.train import train

    train(options.config, options.overrides, options.workdir, overwrite=options.overwrite)


def _run_eval(options: argparse.Namespace) -> None:
    from cdnv2_jax.commands.evaluate import evaluate_checkpoint

    evaluate_checkpoint(
        options.config,
        options.overrides,
        options.checkpoint,
        weights=options.weights,
        output=options.output,
        overwrite=options.overwrite,
    )


def _run_condense(options: argparse.Namespace) -> None:
    from cdnv2_jax.commands.condense import condense_checkpoint

    condense_checkpoint(
        options.checkpoint,
        options.output,
        model=options.model,
        weights=options.weights,
        num_classes=options.num_classes,
        halve_classifier=options.halve_classifier,
        overwrite=options.overwrite,
    )


def _run_report(options: argparse.Namespace) -> None:
    from cdnv2_jax.commands.report import report

    report(options.workdir)
