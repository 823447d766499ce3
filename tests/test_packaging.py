"""What is packed and installed: sdist, wheel, the package index's page, commands, and light imports."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import cdnv2_jax
from cdnv2_jax.commands.main import main
from cdnv2_jax.errors import import_optional
from tests.docs.markdown import links

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


INFO = f"cdnv2_jax-{PROJECT['version']}.dist-info"
NOT_IN_SDIST = {".ci", ".gitignore"}
"""What only a checkout needs."""
OF_SETUPTOOLS = {"PKG-INFO", "setup.cfg", "cdnv2_jax.egg-info"}


def files_of_checkout() -> set[str]:
    """Files that are tracked, and new ones that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return {name for name in listed.stdout.split() if (ROOT / name).is_file()}


def build(kind: str, directory: Path) -> Path:
    """Build an "sdist" or a "wheel" of the project in `directory`."""
    command = f"from setuptools.build_meta import build_{kind} as build; build('dist')"
    subprocess.run([sys.executable, "-c", command], cwd=directory, check=True, capture_output=True)
    (file,) = (directory / "dist").iterdir()
    return file


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist, built from a copy with caches in it, as setuptools leaves traces where it builds."""
    copy, unpacked = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("sdist")
    for name in files_of_checkout():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    for folder in ("cdnv2_jax", "tests/data", "runs"):
        (copy / folder / "__pycache__").mkdir(parents=True)
        (copy / folder / "__pycache__" / "old.cpython-311.pyc").touch()
    with tarfile.open(build("sdist", copy)) as file:
        file.extractall(unpacked, filter="data")
    (root,) = unpacked.iterdir()
    return root


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> zipfile.ZipFile:
    """Built from the sdist, as pip does."""
    return zipfile.ZipFile(build("wheel", sdist))


def test_sdist_is_the_checkout(sdist: Path) -> None:
    """The tests run from an unpacked sdist. Built things and those of a checkout are left out."""
    found = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    found = {name for name in found if name.partition("/")[0] not in OF_SETUPTOOLS | {"dist", "build"}}
    assert found == {name for name in files_of_checkout() if name.partition("/")[0] not in NOT_IN_SDIST}


def test_wheel_is_the_package(wheel: zipfile.ZipFile) -> None:
    """With its data files, the configs and the trained networks, and nothing else."""
    files = {name for name in wheel.namelist() if not name.startswith(INFO)}
    ours = files_of_checkout()
    configs = {f"cdnv2_jax/{name}" for name in ours if name.startswith("configs/")}
    weights = {f"cdnv2_jax/pretrained_{name}" for name in ours if name.startswith("weights/")}
    assert files == {name for name in ours if name.startswith("cdnv2_jax/")} | configs | weights
    assert {"cdnv2_jax/py.typed", "cdnv2_jax/layers/lowerings.json", "cdnv2_jax/kernels/cpu/block.h"} <= files


def test_configs_of_the_wheel_have_names(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Away from the checkout, and as a module; the variants listed are what running the files gave."""
    wheel.extractall(tmp_path / "installed")
    command = [sys.executable, "-m", "cdnv2_jax", "config"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    names = {Path(name).stem for name in files_of_checkout() if name.startswith("configs/")}
    assert set(re.findall(r"^(\w+)  ", done.stdout, re.MULTILINE)) == names
    assert " digits:full\n" in done.stdout and " shapes:retinanet,cdnv2_a " in done.stdout


def test_networks_of_the_wheel_have_names(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Away from the checkout."""
    wheel.extractall(tmp_path / "installed")
    command = [sys.executable, "-c", "import cdnv2_jax; print(*cdnv2_jax.list_pretrained())"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    ours = {Path(name).stem for name in files_of_checkout() if name.startswith("weights/")}
    assert ours and set(done.stdout.split()) == ours


def test_wheel_has_commands_and_version(wheel: zipfile.ZipFile) -> None:
    commands = wheel.read(f"{INFO}/entry_points.txt").decode()
    assert "cdnv2 = cdnv2_jax.commands.main:program" in commands
    assert "cdnv2-convert = cdnv2_jax.commands.convert:program" in commands
    metadata = wheel.read(f"{INFO}/METADATA").decode()
    for extra in ("torch", "export", "tfds", "detection", "docs", "dev"):
        assert f"Provides-Extra: {extra}" in metadata


def test_package_index_page(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Its links and images are absolute; otherwise it is the README."""
    page = tmp_path / "README.md"
    page.write_text(wheel.read(f"{INFO}/METADATA").decode().partition("\n\n")[2], encoding="utf-8")
    files = f"{PROJECT['urls']['Repository']}/{{}}/v{PROJECT['version']}/"
    readme = ROOT / "README.md"
    expected = [
        link
        if link.startswith("https://")
        else files.format("raw" if link.endswith((".png", ".svg")) else "blob") + link
        for link in links(readme)
    ]
    assert links(page) == expected
    relative = page.read_text(encoding="utf-8").replace(files.format("raw"), "").replace(files.format("blob"), "")
    assert relative.strip() == readme.read_text(encoding="utf-8").strip()


def test_repository_is_named_once() -> None:
    """Whoever publishes the project sets its address in one place."""
    address = PROJECT["urls"]["Repository"]
    texts = {ROOT / name for name in files_of_checkout() if name.endswith((".py", ".md", ".toml", ".cff", ".yml"))}
    assert [path.name for path in texts if address in path.read_text(encoding="utf-8")] == ["pyproject.toml"]


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


@pytest.mark.parametrize(("installed", "what"), [(True, "'cdnv2-jax[torch]'"), (False, "-e '.[torch]'")])
def test_extra_that_is_missing(installed: bool, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command adds it to this interpreter's packages, whichever environment is active in the shell."""
    monkeypatch.setattr("sys.executable", "/my env/bin/python")
    monkeypatch.setattr("importlib.metadata.distributions", lambda **_: iter(["it"] * installed))
    with pytest.raises(cdnv2_jax.UserError) as error:
        import_optional("no_such_package.part", "torch")
    command = f"'/my env/bin/python' -m pip install {what}"
    assert str(error.value) == f"this needs the package no_such_package: {command}"


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
    "tensorboard",
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


def test_training_starts_without_what_it_does_not_need() -> None:
    """Seconds of every start, on every host, and hundreds of megabytes."""
    script = "import sys, cdnv2_jax.commands.train; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "tensorflow", "sklearn", "matplotlib"} & set(done.stdout.split())
