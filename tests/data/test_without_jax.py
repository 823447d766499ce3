"""Worker processes read data: what they import must not start JAX."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "cdnv2_jax"
ON_DEVICE = PACKAGE / "data" / "on_device.py"


def test_data_imports_jax_only_for_the_device() -> None:
    importing = set()
    for file in [*PACKAGE.glob("data/**/*.py"), *PACKAGE.glob("detection/data/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.partition(".")[0] for name in names} & {"jax", "flax", "optax"}:
                importing.add(file)
            if any(name == "cdnv2_jax.data.on_device" for name in names):
                importing.add(file)
    assert importing == {ON_DEVICE}
