"""`cdnv2 VERB …`, or `python -m cdnv2_jax VERB …`, or `python main.py VERB …` in a checkout that is not installed."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cdnv2_jax
from cdnv2_jax.commands import arguments as flags
from cdnv2_jax.commands import completion
from cdnv2_jax.commands.arguments import OneLineParser, expect_no_more, guarded, one_of_several, program_name
from cdnv2_jax.errors import UserError
from cdnv2_jax.stopping import resumable, run_program

EXPORTED = ("stablehlo", "onnx", "safetensors", "safetensors-official")
RESULT_FORMATS = ("text", "json", "csv", "coco")
SHELLS = ("bash", "zsh", "fish")
PREPARED = ("image_folder", "imagenet_tars", "cifar10", "cifar100", "huggingface", "webdataset")


def program() -> int:
    """Run the command line with signals handled, and return the exit status."""
    return run_program(main)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = _parser()
    completion.complete(parser)
    options, rest = parser.parse_known_args(arguments)
    if hasattr(options, "config"):
        overrides = [argument for argument in rest if argument.startswith("--config.")]
        rest = [argument for argument in rest if not argument.startswith("--config.")]
        options.overrides = overrides
    expect_no_more(parser, rest)

    def work() -> int:
        return guarded(lambda: options.action(options), f"{parser.prog} {options.verb}")

    return one_of_several(work) if hasattr(options, "processes") else work()


def _parser() -> argparse.ArgumentParser:
    program = program_name("main.py", "cdnv2")
    parser = OneLineParser(prog=program, description="Train, evaluate, condense, export and use CondenseNetV2.")
    parser.add_argument("--version", action="version", version=f"cdnv2-jax {cdnv2_jax.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=OneLineParser)
    _quickstart(verbs)
    _train(verbs)
    _eval(verbs)
    _condense(verbs)
    _export(verbs)
    _predict(verbs)
    _report(verbs)
    _prepare(verbs)
    _config_verb(verbs)
    _completion(verbs)
    return parser


def _quickstart(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "quickstart", "train, prune and condense a small network on real digits", _run_quickstart)
    workdir = {"type": flags.path, "default": Path("runs/digits"), "metavar": "DIR"}
    verb.add_argument("--workdir", **workdir, help="directory for all results (default: runs/digits)")
    verb.add_argument("--overwrite", action="store_true", help="remove the run's results and start over")


def _train(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "train", "train, prune and condense the network of a config", _run_train)
    _config(verb)
    verb.add_argument("--workdir", type=flags.path, required=True, metavar="DIR", help="directory for all results")
    verb.add_argument("--overwrite", action="store_true", help="remove the run's results and start over")
    verb.add_argument(
        "--resume", action="store_true", help="only resume, never start a run (a run in --workdir is resumed anyway)"
    )
    verb.add_argument(
        "--accept-changes", action="store_true", help="resume although the config or the data have changed"
    )
    verb.add_argument(
        "--from-step",
        type=flags.positive,
        metavar="N",
        help="resume from the checkpoint of step N, and remove the later ones (if the newest is damaged)",
    )
    verb.add_argument(
        "--profile", type=flags.window, default=(0, 0), metavar="FIRST:LAST", help="trace these steps into DIR/profile"
    )
    flags.processes(verb)


def _eval(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "eval", "evaluate a checkpoint, ours or official, on a config's held-out data", _run_eval)
    _config(verb)
    flags.checkpoint(verb, programs=True)
    flags.weights(verb)
    verb.add_argument(
        "--output",
        type=flags.path,
        metavar="FILE",
        help="also write logits and labels (.npz) or a detector's results (.json) there",
    )
    verb.add_argument(
        "--per-class", type=flags.path, metavar="FILE.csv", help="also write a table of all classes there"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace --output and --per-class if they exist")
    flags.processes(verb)


def _condense(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "condense", "turn a masked checkpoint, ours or official, into a condensed one", _run_condense)
    flags.checkpoint(verb)
    verb.add_argument("--output", type=flags.path, required=True, metavar="PATH", help="directory to create")
    flags.official_file(verb)
    flags.halve_classifier(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace --output if it exists")


def _export(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "export", "write a network to a file that runs without this package", _run_export)
    flags.checkpoint(verb)
    verb.add_argument("--format", choices=EXPORTED, required=True, help="what to write (docs/export.md says for whom)")
    verb.add_argument(
        "--output", type=flags.path, required=True, metavar="FILE", help="FILE.stablehlo, .onnx, .safetensors"
    )
    verb.add_argument("--image-size", type=flags.positive, metavar="N", help="pixels (default: the network's usual)")
    verb.add_argument(
        "--canvas", type=flags.canvas, metavar="HxW", help="for a detector, pixels (default: landscape as in training)"
    )
    flags.official_file(verb)
    verb.add_argument("--condense", action="store_true", help="condense the masked network first")
    flags.halve_classifier(verb, "with --condense, ")
    flags.class_names(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace --output if it exists")


def _predict(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "predict", "print the top classes of images, or the objects in them", _run_predict)
    verb.add_argument(
        "--checkpoint",
        type=flags.path,
        required=True,
        metavar="PATH",
        help="directory (a run's or a network's), file (official), or an exported .stablehlo, .onnx or .safetensors",
    )
    verb.add_argument("--model", metavar="NAME", help="the network in an official file, if the file does not name it")
    flags.weights(verb)
    flags.class_names(verb)
    verb.add_argument(
        "--format",
        choices=RESULT_FORMATS,
        default="text",
        help="text (default); json: an object per image, one per line; csv: a row per class or object; coco: a "
        "detector's results as COCO's list",
    )
    verb.add_argument("--top", type=flags.positive, metavar="N", help="of a classifier: classes per image (default: 5)")
    verb.add_argument(
        "--threshold",
        type=flags.share,
        metavar="P",
        help="of a detector: least score (default: 0.5; for coco the detector's own)",
    )
    verb.add_argument(
        "--draw", type=flags.path, metavar="DIR", help="of a detector: also write the pictures with boxes there"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace drawn pictures that exist")
    verb.add_argument(
        "--batch-size", type=flags.positive, metavar="N", help="images a batch (default: 32, of a detector 4)"
    )
    verb.add_argument(
        "--max-megapixels", type=flags.positive, default=89, metavar="N", help="largest image to read (default: 89)"
    )
    verb.add_argument(
        "images", nargs="+", metavar="IMAGE", help="file; folder, searched recursively; - for paths on standard input"
    )


def _report(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "report", "show what a run or a network learnt, as plots and one HTML page", _run_report)
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", type=flags.path, metavar="DIR", help="directory of a run, finished or in progress")
    what.add_argument(
        "--checkpoint", type=flags.path, metavar="PATH", help="a network alone: directory (ours) or file (official)"
    )
    verb.add_argument("--output", type=flags.path, metavar="FILE.html", help="with --checkpoint: where the page goes")
    flags.official_file(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace --output if it exists")


def _prepare(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "prepare", "convert images to an array_record data set, which is fast to read", _run_prepare)
    verb.add_argument(
        "--source", choices=PREPARED, required=True, help="format of the images (docs/data.md describes each)"
    )
    verb.add_argument("--directory", type=flags.path, required=True, metavar="DIR", help="directory of the images")
    verb.add_argument("--output", type=flags.path, required=True, metavar="DIR", help="creates DIR/NAME/1.0.0")
    verb.add_argument("--name", metavar="NAME", help="name of the data set (default: the source's)")
    verb.add_argument("--shard-mib", type=int, default=256, metavar="N", help="size of a shard (default: 256)")
    verb.add_argument(
        "--held-out-fraction",
        type=float,
        default=0.0,
        metavar="P",
        help="share of every class to hold out of a directory that has no split (default: 0, which needs a split)",
    )
    verb.add_argument(
        "--short-side",
        type=int,
        metavar="N",
        help="shrink training images to a short side of N pixels, e.g. 320, so that they are decoded faster",
    )
    verb.add_argument("--overwrite", action="store_true", help="replace the data set if it exists")


def _config_verb(verbs: argparse._SubParsersAction) -> None:
    purpose = "list the configs of the package, copy them, or print all settings of one: value, origin, meaning, range"
    verb = _add(verbs, "config", purpose, _run_config)
    _config(verb, required=False)
    verb.add_argument(
        "--copy",
        type=flags.path,
        metavar="PATH",
        help="copy the config to this file (.py) or directory; without --config, all of them to this directory",
    )
    verb.add_argument("--overwrite", action="store_true", help="replace what --copy would write if it exists")


def _completion(verbs: argparse._SubParsersAction) -> None:
    verb = _add(verbs, "completion", "print code that completes commands with the tab key", _run_completion)
    verb.add_argument("shell", choices=SHELLS, help='what reads it: eval "$(cdnv2 completion bash)"')


def _add(
    verbs: argparse._SubParsersAction, name: str, purpose: str, action: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=purpose, description=f"{purpose.capitalize()}.")
    verb.set_defaults(action=action)
    return verb


def _config(verb: argparse.ArgumentParser, *, required: bool = True) -> None:
    config = verb.add_argument(
        "--config",
        required=required,
        metavar="NAME[:variant]",
        help="config of the package (`config` lists them), config file, or a run's config.json; change its fields with "
        "--config.key=value",
    )
    config.completer = completion.configs  # pyright: ignore[reportAttributeAccessIssue]  # read by argcomplete


# The verbs are imported when they run, so that --help and errors in flags do not wait for JAX.


def _run_quickstart(options: argparse.Namespace) -> None:
    resumable("asked to stop: no step is lost; repeat the command to resume")
    from cdnv2_jax.commands.quickstart import quickstart

    quickstart(options.workdir, program=program_name("python main.py", "cdnv2"), overwrite=options.overwrite)


def _run_train(options: argparse.Namespace) -> None:
    resumable("asked to stop: no step is lost; repeat the command to resume")
    _set_up_processes(options)
    from cdnv2_jax.commands.processes import telling_of_lost_processes
    from cdnv2_jax.commands.train import Workdir, train

    workdir = Workdir(
        options.workdir, options.overwrite, options.resume, options.accept_changes, from_step=options.from_step
    )
    with telling_of_lost_processes():
        program = program_name("python main.py", "cdnv2")
        train(options.config, options.overrides, workdir, profile=options.profile, program=program)


def _set_up_processes(options: argparse.Namespace) -> None:
    from cdnv2_jax.commands.processes import join_processes, keep_compiled

    keep_compiled(options.compilation_cache)
    join_processes(
        distributed=options.distributed,
        coordinator=options.coordinator,
        processes=options.processes,
        process=options.process,
    )


def _run_eval(options: argparse.Namespace) -> None:
    _set_up_processes(options)
    from cdnv2_jax.commands.evaluate import evaluate_checkpoint
    from cdnv2_jax.commands.processes import telling_of_lost_processes

    with telling_of_lost_processes():
        evaluate_checkpoint(
            options.config,
            options.overrides,
            options.checkpoint,
            weights=options.weights,
            output=options.output,
            per_class=options.per_class,
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


def _run_export(options: argparse.Namespace) -> None:
    from cdnv2_jax.commands.export import Source, export_checkpoint

    source = Source(
        options.checkpoint,
        model=options.model,
        weights=options.weights,
        num_classes=options.num_classes,
        condense=options.condense,
        halve_classifier=options.halve_classifier,
        image_size=options.image_size,
        class_names=options.class_names,
        canvas=options.canvas,
    )
    export_checkpoint(source, options.output, format=options.format, overwrite=options.overwrite)


def _run_predict(options: argparse.Namespace) -> None:
    from cdnv2_jax.commands.predict import Options, predict_images

    chosen = Options(
        options.checkpoint,
        model=options.model,
        weights=options.weights,
        class_names=options.class_names,
        format=options.format,
        top=options.top,
        threshold=options.threshold,
        draw=options.draw,
        overwrite=options.overwrite,
        batch_size=options.batch_size,
        max_megapixels=options.max_megapixels,
    )
    predict_images(chosen, options.images)


def _run_report(options: argparse.Namespace) -> None:
    if options.workdir is not None:
        if options.output is not None:
            raise UserError("--output is for --checkpoint: the page of a run is report.html in its --workdir")
        from cdnv2_jax.commands.report import report

        report(options.workdir)
        return
    if options.output is None:
        raise UserError("--checkpoint needs --output FILE.html: say where the page goes")
    from cdnv2_jax.commands.report import report_network

    report_network(
        options.checkpoint,
        options.output,
        model=options.model,
        weights=options.weights,
        num_classes=options.num_classes,
        overwrite=options.overwrite,
    )


def _run_prepare(options: argparse.Namespace) -> None:
    from cdnv2_jax.commands.prepare import prepare

    prepare(
        options.source,
        options.directory,
        options.output,
        name=options.name,
        shard_mib=options.shard_mib,
        held_out_fraction=options.held_out_fraction,
        short_side=options.short_side,
        overwrite=options.overwrite,
    )


def _run_config(options: argparse.Namespace) -> None:
    from cdnv2_jax.commands.shipped_configs import show_configs

    show_configs(options.config, options.overrides, options.copy, overwrite=options.overwrite)


def _run_completion(options: argparse.Namespace) -> None:
    completion.print_completion(options.shell)
