"""Publish a run's network: weights/NAME.safetensors, masked, its card, weights/NAME.md, and its row in docs/results.md.

    python -m benchmarks.publish --workdir runs/fashion --config fashion_mnist --name cdnv2_fashion_mnist \
        --pictures "Fashion-MNIST" --licence MIT --commit 1a2b3c4 --machine "2 cores of an AMD EPYC, 31 minutes"

All figures are the run's own: `summary.json` has those of the network as it was written, masked and condensed. The card
gives the command that makes the run from the shipped config. Its figures and the config are in the file's header, too.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.markdown import replaced, table
from benchmarks.options import make_parser, run
from cdnv2_jax import load
from cdnv2_jax.bounded_reading import read_json
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.files import replacing, write_text
from cdnv2_jax.networks.network import Network
from cdnv2_jax.pretrained import pretrained_files
from cdnv2_jax.report.mistakes import read_predictions
from cdnv2_jax.schema import flat_fields
from cdnv2_jax.training.workdir import BOOKKEEPING, CONFIG_FILE, DATA_FILE, PREDICTIONS_FILE, SUMMARY_FILE
from cdnv2_jax.weights.safetensors import read_metadata, save_safetensors

SCRIPT = "publish"
WEIGHTS = Path(__file__).parents[1] / "weights"
DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- networks: python -m benchmarks.publish -->", "<!-- end of networks -->"
QUOTE = "'"
FIRST = 500  # held-out pictures, whose count of right answers is stored for a test
TRAINED = "trained"
"""Key of the run's config and figures in the file's metadata."""


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's score interval of a share that was observed in `count` trials, for z = 1.96 of 95 %.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - half, centre + half


def command_of(config: Mapping[str, Any], spec: str) -> str:
    """Return the command that trains with `config`, the settings of a run, from the shipped config `spec`."""
    shipped = flat_fields(json.loads(json.dumps(dataclasses.asdict(read_config(spec, [])))))
    flags = [
        f"--config.{field}={_shown(value)}"
        for field, value in flat_fields(config).items()
        if field not in BOOKKEEPING and value != shipped.get(field)
    ]
    if config["data"]["directory"] != shipped["data.directory"]:
        flags.append("--config.data.directory=PICTURES")
    return " \\\n            ".join([f"cdnv2 train --config {spec} --workdir RUN", *flags])


def _shown(value: Any) -> str:
    return QUOTE + json.dumps(value) + QUOTE if isinstance(value, list) else str(value)


def card(name: str, network: Network, trained: Mapping[str, Any]) -> str:
    """Return the model card, in Markdown."""
    images = trained["held_out_images"]
    rows = []
    for form in ("masked", "condensed"):
        found = trained[form]
        low, high = wilson_interval(found["accuracy"], images)
        rows.append(
            [
                *(form, f"{found['accuracy']:.2%}", f"{low:.2%} to {high:.2%}", f"{found['loss']:.4f}"),
                *(f"{found['multiply_adds'] / 1e6:.1f}M", f"{found['params']:,}"),
            ]
        )
    header = ["form", "top-1", "95 % interval", "loss", "multiply-adds", "parameters"]
    names = ", ".join(network.usage.class_names) if network.usage else ""
    return f"""# {name}

    cdnv2 predict --checkpoint pretrained:{name} IMAGE …

```python
network = cdnv2_jax.load_pretrained("{name}")
```

A {network.name}{_changes(trained["config"]["model"]["overrides"])}, for {network.architecture.num_classes} classes:
{names}.

Accuracy on {images:,} held-out pictures, after the last step of one run:

{table(header, rows)}

- **Pictures:** {trained["pictures"]}, {trained["training_images"]:,} to train on. Licence: {trained["licence"]}.
- **Seed:** {trained["config"]["seed"]}. **Trained on** {trained["machine"]}, at commit {trained["commit"]}.
- **Recipe:** all settings are in the file's header, under `{TRAINED}`. The command:

        {trained["command"]}

- **Held-out pictures** were evaluated during training, but chose nothing: this is the last network, not the best.
- **File:** the masked network in the layout of this package. `cdnv2 condense` makes the small form of it, which the
  second row is about; `cdnv2 export` writes it for other programs.
"""


def _changes(overrides: Mapping[str, Any]) -> str:
    """Return in words what a config changes of the registered architecture."""
    shown = (f"{field} {_shown(value).strip(QUOTE)}" for field, value in sorted(overrides.items()))
    return f" with {', '.join(shown)}" if overrides else ""


def networks_table() -> str:
    """Return the table of all published networks, from their files' headers."""
    rows = []
    for name, file in pretrained_files().items():
        trained = read_metadata(file)[TRAINED]
        found, images = trained["condensed"], trained["held_out_images"]
        low, high = wilson_interval(found["accuracy"], images)
        rows.append(
            [
                *(f"[`{name}`](../weights/{name}.md)", trained["pictures"], f"{found['accuracy']:.2%}"),
                *(f"{low:.2%} to {high:.2%}", f"{found['multiply_adds'] / 1e6:.1f}M", f"{found['params']:,}"),
            ]
        )
    header = ["`pretrained:`", "pictures", "top-1", "95 % interval", "multiply-adds", "parameters"]
    return table(header, rows)


def publish(options: argparse.Namespace, console: Console) -> None:
    """Write the weights and the card."""
    config, summary, data = (read_json(options.workdir / file) for file in (CONFIG_FILE, SUMMARY_FILE, DATA_FILE))
    network = load(options.workdir / "masked")
    told = read_predictions(options.workdir / PREDICTIONS_FILE, network.architecture.num_classes)
    trained = {
        "config": config,
        "command": command_of(config, options.config),
        "pictures": options.pictures,
        "licence": options.licence,
        "machine": options.machine,
        "commit": options.commit,
        "training_images": data["train"]["images"],
        "held_out_images": data["val"]["images"],
        "first_right": {str(FIRST): int((told.labels == told.predicted)[:FIRST].sum())},
        **{form: summary[form] for form in ("masked", "condensed")},
    }
    path = WEIGHTS / f"{options.name}.safetensors"
    with replacing(path) as file:
        save_safetensors(file, network, {TRAINED: trained}, "ours")
    write_text(path.with_suffix(".md"), card(options.name, network, trained))
    text = DOCUMENT.read_text(encoding="utf-8")
    write_text(DOCUMENT, replaced(text, START, END, networks_table(), document=DOCUMENT.name))
    console.print(f"{path}, {path.stat().st_size:,} bytes, and its card")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    parser.add_argument("--workdir", type=Path, required=True, metavar="RUN", help="directory of the run")
    parser.add_argument("--config", required=True, metavar="NAME", help="shipped config that the run began from")
    parser.add_argument("--name", required=True, help="of the files, and in `pretrained:NAME`")
    for flag, what in (
        ("--pictures", "what the pictures are"),
        ("--licence", "of the pictures"),
        ("--machine", "what it was trained on, and for how long"),
        ("--commit", "of this project, at which it was trained"),
    ):
        parser.add_argument(flag, required=True, help=what)
    return run(parser, publish, arguments)


if __name__ == "__main__":
    sys.exit(main())
