"""The public API is documented: shapes in its docstrings, and pdoc makes pages of them."""

import inspect
import re
from pathlib import Path

import cdnv2_jax
from docs import api_reference
from tests.tables import table


@table("name", cdnv2_jax.__all__)
def test_docstrings(name: str) -> None:
    """Each says what it is, and where arrays, paths or errors are concerned, which."""
    thing = getattr(cdnv2_jax, name)
    text = inspect.getdoc(thing) or ""
    assert len(text) > 40, f"{name} says too little"
    parameters = set() if inspect.isclass(thing) else set(inspect.signature(thing).parameters)
    undocumented = {
        parameter for parameter in parameters - {"model", "path"} if not re.search(rf"\b{parameter}\b", text)
    }
    assert not undocumented, f"{name} does not mention {undocumented}"


@table("name", ["create_model", "condense", "prune", "count_flops", "to_torch_state_dict"])
def test_shapes(name: str) -> None:
    """What goes in and comes out, by shape, layout or unit."""
    text = inspect.getdoc(getattr(cdnv2_jax, name)) or ""
    assert re.search(r"\[\w[^\]]*\]|NHWC|pixels", text), name


def test_reference_is_written(tmp_path: Path) -> None:
    """As `make docs`, of the public API alone: pages of all modules take half a minute."""
    assert api_reference.main(["--public-only", "--output", str(tmp_path)]) == 0
    page = (tmp_path / "cdnv2_jax.html").read_text(encoding="utf-8")
    for name in cdnv2_jax.__all__:
        assert f'id="{name}"' in page, f"pdoc shows no {name}"
