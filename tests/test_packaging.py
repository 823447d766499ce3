"""What is installed: the package whole, with its data files and nothing else, its commands, and light imports."""

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import cdnv2_jax
from cdnv2_jax.commands.main import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, as setuptools leaves its traces where it builds."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "cdnv2_jax", copy / "cdnv2_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("configs", "tests", "benchmarks", "docs"):
        (copy / name).mkdir()
        (copy / name / "__init__.py").touch()
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (file,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(file)


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    info = f"cdnv2_jax-{PROJECT['version']}.dist-info/"
    files = {name for name in wheel.namelist() if not name.startswith(info)}
    tracked = subprocess.run(["git", "ls-files", "cdnv2_jax"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    added = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard", "cdnv2_jax"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert files == {*tracked.stdout.split(), *added.stdout.split()}
    assert {"cdnv2_jax/layers/lowerings.json", "cdnv2_jax/kernels/cpu/block.h"} <= files


def test_wheel_has_commands_and_version(wheel: zipfile.ZipFile) -> None:
    info = f"cdnv2_jax-{PROJECT['version']}.dist-info/"
    commands = wheel.read(f"{info}entry_points.txt").decode()
    assert "cdnv2 = cdnv2_jax.commands.main:main" in commands
    assert "cdnv2-convert = cdnv2_jax.commands.convert:main" in commands
    metadata = wheel.read(f"{info}METADATA").decode()
    for extra in ("torch", "export", "tfds", "detection", "docs", "dev"):
        assert f"Provides-Extra: {extra}" in metadata


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cdnv2_jax.__version__ == PROJECT["version"]
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"cdnv2-jax {PROJECT['version']}\n"


def test_version_is_the_changelogs() -> None:
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_extras_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == set(PROJECT["optional-dependencies"])


def test_what_is_required_is_pinned() -> None:
    """In requirements.txt, but for TensorFlow, which only preparing data sets needs."""
    required = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
    names = {re.split(r"[\[<>=;]", requirement)[0] for requirement in required}
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    assert {name.lower() for name in names} - {name.lower() for name in pinned} == {"cdnv2-jax", "tensorflow-cpu"}


USES = {
    "import": ("import cdnv2_jax", {"jax", "flax", "numpy"}),
    "networks": (
        "import cdnv2_jax; cdnv2_jax.create_model, cdnv2_jax.prune, cdnv2_jax.condense, cdnv2_jax.count_flops",
        set(),
    ),
    "checkpoints": ("import cdnv2_jax; cdnv2_jax.save, cdnv2_jax.load, cdnv2_jax.load_torch_checkpoint", set()),
}
HEAVY = {
    "torch",
    "matplotlib",
    "sklearn",
    "scipy",
    "grain",
    "cv2",
    "PIL",
    "tensorboardX",
    "tensorflow",
    "orbax",
    "rich",
}


@pytest.mark.parametrize(("code", "more"), USES.values(), ids=USES)
def test_imports_are_light(code: str, more: set[str]) -> None:
    """Modules, not seconds: what a machine is slow at is not what the package asks for."""
    # What JAX and Flax import themselves is theirs to answer for.
    script = f"""
import sys
if {not more}:
    import jax, flax.nnx
before = set(sys.modules)
{code}
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not (HEAVY | more) & set(done.stdout.split())
