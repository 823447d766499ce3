"""Mutated files in every format that Python code reads; `make soak` opens all formats, in processes of their own."""

from pathlib import Path

import pytest

from tests.fuzz_openers import outcome_of, tree_of, write_seeds
from tests.fuzz_seeds import OPENERS, write_tree

EACH = 6


@pytest.mark.parametrize("opener", [name for name, opener in OPENERS.items() if opener.is_python])
def test_opened_or_refused(opener: str, tmp_path: Path) -> None:
    write_seeds([opener], tmp_path / "seeds")
    for number in range(EACH):
        tree = tree_of(tmp_path / "seeds", opener, 0, number)
        assert tree == tree_of(tmp_path / "seeds", opener, 0, number)
        write_tree(tmp_path / "input", tree)
        found = outcome_of(opener, tmp_path / "input")
        assert "failed" not in found, (number, found)
        assert number or "opened" in found, found
