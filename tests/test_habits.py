"""What runs elsewhere does what `make` does here: pre-commit's hooks, and the workflow of a public forge."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{target}:[^\n]*\n((?:\t[^\n]*\n)+)", makefile, re.MULTILINE)
    assert found
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()]


def test_hooks_are_make_check() -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == recipe("check")
    # The commands name their files themselves, and must run whatever a commit changes.
    assert all(hook["pass_filenames"] is False and "files" not in hook for hook in repository["hooks"])


def test_workflow_tests_what_is_promised() -> None:
    """Every Python of the classifiers, every JAX of requirements.txt with its Python; others may fail."""
    workflow = read_yaml(".github/workflows/test.yml")
    jobs = workflow["jobs"]
    rows = jobs["versions"]["strategy"]["matrix"]["include"]
    tried = {row["python"] for row in rows if not row.get("untried")}
    classified = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)}
    assert tried == classified
    assert PROJECT["requires-python"] == f">={min(tried, key=lambda version: int(version.partition('.')[2]))}"
    pins = re.findall(r"^jax==([\d.]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(pins) <= {row["jax"] for row in rows}
    assert any(step.get("run", "").startswith("make test") for step in jobs["test"]["steps"])


def test_workflow_has_no_rights() -> None:
    """It reads the repository, and knows no secret."""
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert read_yaml(".github/workflows/test.yml")["permissions"] == {"contents": "read"}
    assert "secrets" not in text and "pull_request_target" not in text
