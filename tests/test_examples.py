"""The examples run as a user runs them, and the notebook's stored outputs are those of its cells."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flax import nnx
from PIL import Image

import cdnv2_jax
from docs import tour_notebook
from examples import finetune_own_pictures
from tests.tables import table

ROOT = Path(__file__).parents[1]
LARGEST_NOTEBOOK = 300_000  # bytes


def test_own_network(tmp_path: Path) -> None:
    """A family from outside of the package goes through everything; the example itself compares what it should."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = [sys.executable, str(ROOT / "examples" / "own_network.py"), str(tmp_path / "out")]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "stage 3 of 3" in done.stdout
    accuracy = float(done.stdout.split("accuracy ")[1].split("%")[0])
    assert accuracy > 90
    for said in ("read back bit for bit", "as ONNX", "RetinaNet on it"):
        assert said in done.stdout
    assert {"network", "network.onnx", "network.html"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, which is where the example writes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


SIZES = {"stages": (1,), "growth": (8,), "head_width": 16, "squeeze_excite_from": 2}
"""One dense layer instead of 25."""
OVERRIDES = [f"--config.model.overrides.{name}={value}" for name, value in SIZES.items()]
SMALLEST = ("--config.epochs=1", "--config.data.image_size=16", *OVERRIDES)


@pytest.mark.usefixtures("elsewhere")
def test_finetune_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Without any picture and checkpoint: on drawn ones, from random weights, as it says."""
    assert finetune_own_pictures.main(SMALLEST) == 0
    printed = capsys.readouterr().out
    assert "pictures to train on, of 3 classes: chequered, dotted, striped" in printed
    assert "the network starts from random weights" in printed
    assert "stage 7 of 7" in printed
    assert "runs/pictures/new/dotted.png: " in printed
    assert "runs/pictures/pictures.onnx says the same of 3 of 3 pictures" in printed


def test_finetune_a_checkpoint(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Few pictures, of classes of which the network knows more: smaller batches, and its outputs are kept."""
    finetune_own_pictures.draw_pictures(elsewhere / "photos", 4)
    half = (0.5, 0.5, 0.5)
    preparation = cdnv2_jax.ImagePreparation(16, "centre", "bilinear", half, half)
    network = cdnv2_jax.create_model("cdnv2_a", num_classes=4, rngs=nnx.Rngs(0), **SIZES)
    network.usage = cdnv2_jax.Usage(preparation, ("plain", "striped", "dotted", "chequered"))
    cdnv2_jax.prune(network, network.condensation_stages)
    cdnv2_jax.save("trained", cdnv2_jax.condense(network))
    arguments = ("--pictures", "photos", "--checkpoint", "trained", "--config.epochs=1", "--new")
    assert finetune_own_pictures.main((*arguments, "new/missing.png")) == 2
    assert "new/missing.png: no such file" in capsys.readouterr().err and not Path("runs").exists()
    assert finetune_own_pictures.main((*arguments, "new/striped.png")) == 0
    printed = capsys.readouterr().out
    assert "9 pictures to train on, of 3 classes" in printed
    assert "training: 1 step, 8 images each" in printed
    assert "random weights" not in printed
    used = cdnv2_jax.load("runs/pictures/run/condensed").usage
    assert used is not None and used.class_names == ("chequered", "dotted", "striped") and used.preparation.size == 16
    # Again, for other pictures: nothing is trained.
    assert finetune_own_pictures.main((*arguments, "new/dotted.png")) == 0
    printed = capsys.readouterr().out
    assert "its network is used as it is" in printed and "new/dotted.png: " in printed and "epoch" not in printed


def one_picture(folder: Path) -> None:
    Image.new("RGB", (32, 32)).save(folder / "one.png")


def one_of_each_class(folder: Path) -> None:
    finetune_own_pictures.draw_pictures(folder, 1)


def one_unreadable(folder: Path) -> None:
    finetune_own_pictures.draw_pictures(folder, 3)
    (folder / "dotted" / "cut.png").write_bytes((folder / "dotted" / "000.png").read_bytes()[:200])


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folders of classes": (one_picture, "one_picture"),
    "a single picture of each class": (one_of_each_class, "one_of_each_class has a single image in every class"),
    "an unreadable picture": (one_unreadable, "one_unreadable/dotted/cut.png cannot be read as an image"),
}


@table("case", REFUSED)
def test_finetune_refuses(
    case: tuple[Callable[[Path], None], str], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, from the example or from the command that it runs."""
    write, message = case
    folder = elsewhere / write.__name__
    folder.mkdir()
    write(folder)
    try:
        status = finetune_own_pictures.main(("--pictures", folder.name, *SMALLEST))
    except SystemExit as end:
        status = end.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_notebook_holds_its_own_outputs() -> None:
    """Of the cells as they are, run in order without an error, and of no particular machine."""
    text = tour_notebook.NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < LARGEST_NOTEBOOK
    assert str(ROOT) not in text and "/tmp" not in text and "/home" not in text
    notebook = tour_notebook.read(tour_notebook.NOTEBOOK)
    advice = "run python -m docs.tour_notebook"
    assert notebook.metadata[tour_notebook.EXECUTED] == tour_notebook.sources_hash(notebook), advice
    cells = tour_notebook.code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), advice
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "display_data"}
    assert all(output.name == "stdout" for output in outputs if output.output_type == "stream")
    assert sum(len(tour_notebook.pictures(cell)) for cell in cells) == 3
    text_cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    links = [link for text in text_cells for link in re.findall(r"\]\(([^)#]+)", text)]
    assert links and all((tour_notebook.NOTEBOOK.parent / link).is_file() for link in links)
    imported = [line for cell in cells for line in cell.source.splitlines() if "import" in line]
    assert not [line for line in imported if " _" in line or "._" in line]


@pytest.mark.soak  # trains a network: most of a minute; what its cells call is tested on smaller ones
def test_notebook_runs(tmp_path: Path) -> None:
    """All cells, and what they print is what the notebook shows."""
    notebook, shown = (tour_notebook.read(tour_notebook.NOTEBOOK) for _ in range(2))
    tour_notebook.execute(notebook, tmp_path)
    for ours, theirs in zip(tour_notebook.code_cells(notebook), tour_notebook.code_cells(shown), strict=True):
        assert not tour_notebook.difference(ours, theirs)
    assert (tmp_path / "tour_files" / "digits.onnx").is_file()
