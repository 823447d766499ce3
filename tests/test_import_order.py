"""Imports run one way: kernels ← layers ← networks ← pruning ← what uses networks; data knows no network, and
training not what it trains."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.tables import table

PACKAGE = "cdnv2_jax"
ROOT = Path(__file__).parents[1] / PACKAGE

EVERYBODY = {
    "bounded_reading",
    "buckets",
    "errors",
    "files",
    "inert_pickle",
    "paths",
    "pretrained",
    "schema",
    "stopping",
    "terminal",
    "versions",
}
NETWORKS = {"kernels", "layers", "networks", "pruning"}
ALLOWED: dict[str, set[str]] = {
    **{part: set() for part in EVERYBODY},
    "kernels": set(),
    "layers": {"kernels"},
    "networks": {"kernels", "layers", "data"},
    "pruning": {"layers", "networks"},
    "data": set(),
    "devices": set(),
    "detectors": {"layers", "networks"},
    "weights": NETWORKS | {"data", "detectors", "devices"},
    "report": NETWORKS | {"data"},
    "export": NETWORKS | {"weights", "data", "detectors", "report"},
    "training": NETWORKS | {"weights", "data", "devices", "report"},
    "classification": NETWORKS | {"weights", "data", "devices", "report", "training"},
    "detection": NETWORKS | {"weights", "data", "detectors", "devices", "report", "training"},
    "__main__": {"commands"},
    "prediction": NETWORKS | {"weights", "data", "classification", "detection", "training"},
    # The public API.
    "": NETWORKS | {"weights", "data", "classification", "detection", "prediction"},
    "commands": NETWORKS
    | {"", "weights", "classification", "data", "detection", "detectors", "devices", "export", "report", "training"},
}
"""Part of the package → the parts it may import beside itself and those for everybody; "" is its own `__init__`."""

FILES = sorted(ROOT.rglob("*.py"))


def part_of(file: Path) -> str:
    """`layers` for `cdnv2_jax/layers/condensed.py`, `evaluation` for `cdnv2_jax/classification/evaluation.py`."""
    return "" if file == ROOT / "__init__.py" else file.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_parts(source: str, module: str) -> Iterator[str]:
    """The parts of the package that a module's source imports, at its top or inside of a function.

    Args:
      source: Python code.
      module: dotted name of the package that the code's file lies in, from which relative imports count.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # What follows `from cdnv2_jax import` may be a part or a name of the package's `__init__`.
            names = [f"{base}.{alias.name}" for alias in node.names] if base == PACKAGE else [base]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == PACKAGE:
                part = rest.partition(".")[0]
                yield part if (ROOT / part).exists() or (ROOT / f"{part}.py").exists() else ""


@table("file", FILES)
def test_imports_run_one_way(file: Path) -> None:
    part = part_of(file)
    assert part in ALLOWED, f"decide in this file what {part!r} may import"
    module = ".".join((PACKAGE, *file.relative_to(ROOT).parts[:-1]))
    forbidden = set(imported_parts(file.read_text(), module)) - ALLOWED[part] - {part} - EVERYBODY
    assert not forbidden, f"{part or PACKAGE} must not import {sorted(forbidden)}"


def test_the_table_has_no_cycles() -> None:
    """Taking away what imports nothing that is left empties the table."""
    left = dict(ALLOWED)
    while free := [part for part, allowed in left.items() if not allowed & set(left)]:
        for part in free:
            del left[part]
    assert not left


def test_all_parts_that_there_are_were_found() -> None:
    assert {part_of(file) for file in FILES} >= {"", "errors", "layers", "networks", "pruning", "weights"}


@table(
    "source, parts",
    [
        ("import numpy\nfrom jax import numpy", []),
        ("import cdnv2_jax.layers.condensed", ["layers"]),
        ("import cdnv2_jax.errors as e, cdnv2_jax.data", ["errors", "data"]),
        ("from cdnv2_jax.networks.zoo import create_model", ["networks"]),
        ("from cdnv2_jax import networks, prune", ["networks", ""]),
        ("import cdnv2_jax", [""]),
        ("def f():\n    from cdnv2_jax.training.step import TrainState", ["training"]),
        ("from . import prune", ["pruning"]),
        ("from .prune import importance", ["pruning"]),
        ("from ..networks import zoo", ["networks"]),
        ("from .. import training", ["training"]),
        ("import cdnv2_jax_extra", []),
    ],
)
def test_what_counts_as_an_import(source: str, parts: list[str]) -> None:
    """As in a file of `cdnv2_jax/pruning`."""
    assert list(imported_parts(source, "cdnv2_jax.pruning")) == parts
