"""The public API is documented: shapes in its docstrings, entries that pdoc can show, and pages made of them."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import cdnv2_jax
from docs import api_reference
from tests.docs.markdown import ROOT
from tests.tables import table

FILES = sorted(file for part in ("cdnv2_jax", "benchmarks", "docs", "examples") for file in (ROOT / part).rglob("*.py"))


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


SECTION = re.compile(r"^(Attributes|Args):(.*)\n((?: .*\n|\n)*)", re.MULTILINE)


def badly_written(docstring: str) -> Iterator[str]:
    """Lines of a docstring's sections that a documentation tool would not show as one entry for each name."""
    for section, rest, body in SECTION.findall(inspect.cleandoc(docstring) + "\n"):
        if rest:
            yield f"{section}:{rest}"
        for line in body.splitlines():
            starts = re.match(r"  \S", line) is not None
            # Parameters of one meaning may share an entry; fields are documented one by one.
            named = re.match(r"  \w+: " if section == "Attributes" else r"  \*{0,2}\w+(, \w+)*: ", line)
            if (starts and not named) or re.search(r"\. \w+(, \w+)*: ", line):
                yield line.strip()
    if re.search(r"\bAttributes: \S", docstring):
        yield "Attributes: within a line"


def test_one_entry_to_a_line() -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = {}
    for file in FILES:
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        docstrings = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]
        if lines := [line for docstring in docstrings for line in badly_written(docstring)]:
            found[file.relative_to(ROOT).as_posix()] = lines
    assert not found


@table(
    ("section", "bad"),
    [
        ("Attributes:\n  name: of it.\n  size: in pixels,\n    of its side.\n", []),
        ("Attributes:\n\n  name: e.g. a: b.\n\nText.\n\nArgs:\n  a, b: two.\n  **rest: others.", ["name: e.g. a: b."]),
        ("Attributes:\n  name: of it. size: in pixels.", ["name: of it. size: in pixels."]),
        ("Attributes:\n  name, size: two.", ["name, size: two."]),
        ("Attributes:\n  name: long,\n    indeed. size: in pixels.", ["indeed. size: in pixels."]),
        ("Attributes: name, of it.", ["Attributes: name, of it.", "Attributes: within a line"]),
        ("Args:\n  a: one. b, c: two.\n  nothing", ["a: one. b, c: two.", "nothing"]),
    ],
)
def test_what_is_badly_written(section: str, bad: list[str]) -> None:
    assert list(badly_written(f"Title.\n\n{section}")) == bad
    indented = "".join(f"    {line}\n" if line else "\n" for line in section.split("\n"))
    assert list(badly_written(f"Title.\n\n{indented}    ")) == bad
