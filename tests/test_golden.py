"""Every figure measured with the official code, against the project's own network, conversion and training step."""

from pathlib import Path

import jax
import pytest

from tests import golden_check
from tests.golden_format import read_golden

FILES = sorted((Path(__file__).parent / "golden").glob("*.npz"))

# In float64: compiling 36 layers and more, or minutes of training. Of cdnv2_a, what the file holds is compared with the
# twin in tests/test_torch_twin.py, and the twin with ours in tests/commands/test_official_weights.py.
SOAK = (
    "digits_trajectory",
    "digits_trajectory_c8g4",
    "imagenet_condensenet_74_c8",
    "imagenet_cdnv2_a",
    "imagenet_cdnv2_b",
    "imagenet_cdnv2_c",
)


def files_with_marks() -> list:
    return [pytest.param(file, id=file.stem, marks=pytest.mark.soak if file.stem in SOAK else ()) for file in FILES]


def test_there_are_golden_files():
    assert len(FILES) == 7


@pytest.mark.parametrize("file", files_with_marks())
def test_golden_file(file: Path):
    with jax.enable_x64(True):
        checks = list(golden_check.check_file(read_golden(file)))
    assert len(checks) >= 8
    assert [check for check in checks if not check["ok"]] == []


@pytest.mark.slow  # compiles a training step in float64
def test_the_first_steps_of_a_training_run():
    """Enough to prune three times; `make soak` takes the other 64, and the final networks."""
    golden = read_golden(FILES[0].with_name("digits_trajectory_c8g4.npz"))
    with jax.enable_x64(True):
        _, _, checks = golden_check.train(golden_check.golden_model(golden), golden, steps=16)
    assert len(set(golden.arrays["mask_ones"][:16].sum(axis=1))) == 4
    assert [check for check in checks if not check["ok"]] == []


def test_a_wrong_figure_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The checker itself must be able to fail: the same file with one logit changed."""
    import numpy as np

    with np.load(FILES[0]) as archive:
        arrays = dict(archive)
    arrays["logits_pruned"][0, 0] *= 1 + 1e-6
    changed = tmp_path / "changed.npz"
    np.savez(changed, **arrays)
    assert golden_check.main([str(changed)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if '"ok": false' in line]
    assert len(failed) == 1 and '"logits_pruned"' in failed[0]


def test_a_broken_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK nothing of the kind")
    assert golden_check.main([str(broken)]) == 2
    assert "broken.npz" in capsys.readouterr().err
