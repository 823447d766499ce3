"""The README's table and the plots say what the results files do."""

import json
from pathlib import Path

import pytest

from benchmarks import plots, readme_table
from benchmarks.results import Entry
from cdnv2_jax.errors import UserError


def test_the_readme_is_up_to_date() -> None:
    """If not: python -m benchmarks.readme_table."""
    assert readme_table.main(["--check"]) == 0


def _entry(model: str, form: str, batch: int, size: int, times: dict[str, float]) -> Entry:
    spreads = {name: {"median": ms, "lowest": 0.9 * ms, "highest": 1.25 * ms} for name, ms in times.items()}
    ours = times["ours"]
    ratios = {
        name: {key: value / ours for key, value in spread.items()} for name, spread in spreads.items() if name != "ours"
    }
    what = {"model": model, "form": form, "batch": batch, "image_size": size}
    return what | {
        "milliseconds": spreads,
        "ratios": ratios,
        "refused": {},
        "multiply_adds": 10**9,
        "floor_bytes": 10**6,
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A directory with made-up results."""
    times = {"ours": 4.0, "ours_masked": 3.0, "torch": 8.0, "onnx_folded": 6.0}
    sweep = [{"over": "batch", **_entry("cdnv2_a", "condensed", batch, 224, times)} for batch in (1, 2)]
    sweep += [{"over": "image_size", **_entry("cdnv2_a", "condensed", 8, size, times)} for size in (96, 224)]
    files = {
        "inference": [_entry("cdnv2_a", "condensed", 32, 224, times)],
        "training": [_entry("cdnv2_a", "nothing pruned", 16, 224, {"ours": 1000.0, "torch_compile": 500.0})],
        "sweep": sweep,
    }
    machine = {"cores": 2, "processor": "AMD EPYC", "date": "2026-11-24"}
    machine["versions"] = {"jax": "0.10.2", "torch": "2.13.0+cpu", "onnxruntime": None}
    rates = {"gemm_multiply_adds_per_second": 1e11, "copied_bytes_per_second": 1e10}
    for name, entries in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"machine": machine, "rates": rates, "entries": entries}))
    return tmp_path


TABLE = """\
Milliseconds on 2 cores of an AMD EPYC (float32, JAX 0.10.2, PyTorch 2.13.0, 2026-11-24):

| work | batch | ours | ours, masked | PyTorch | ONNX Runtime, index folded | torch.compile \
| fastest other ÷ ours (lowest to highest) | floor |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| cdnv2_a condensed | 32 | 4.0 | 3.0 | 8.0 | 6.0 |  | 1.50 (1.35 to 1.88) | 10 |
| cdnv2_a training step, nothing pruned | 16 | 1000 |  |  |  | 500 | 0.50 (0.45 to 0.62) | 10 |"""


def test_table(results: Path) -> None:
    """Beside each work the fastest of the others; our own masked network is none of them."""
    assert readme_table.section(results) == TABLE


def test_check_and_write(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{readme_table.START}\nold\n{readme_table.END}\nafter\n")
    flags = ["--results", str(results), "--readme", str(readme)]
    assert readme_table.main([*flags, "--check"]) == 1
    assert "not up to date" in capsys.readouterr().err
    assert "old" in readme.read_text()
    assert readme_table.main(flags) == 0
    assert readme.read_text() == f"before\n{readme_table.START}\n{TABLE}\n{readme_table.END}\nafter\n"
    assert readme_table.main([*flags, "--check"]) == 0


def test_a_readme_without_the_comments() -> None:
    with pytest.raises(UserError, match="lacks the comments"):
        readme_table.updated("text", "table")


def test_plots(results: Path, tmp_path: Path) -> None:
    assert plots.main(["--results", str(results), "--images", str(tmp_path / "images")]) == 0
    pictures = sorted((tmp_path / "images").iterdir())
    assert [picture.name for picture in pictures] == ["ratios.png", "time_per_image.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plots.main(["--results", str(tmp_path), "--images", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err
