"""Top-1, top-5 and loss of given logits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cdnv2_jax.classification.evaluation import score

RANDOM = np.random.default_rng(0)
DISTINCT = RANDOM.standard_normal((200, 12)).astype(np.float32)
TIED = RANDOM.integers(0, 3, (400, 12)).astype(np.float32)
"""Three values for twelve classes: most samples have several classes in first place."""


def _labels(count: int, classes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, count, np.int32)


def _top_by_loop(logits: np.ndarray, labels: np.ndarray, most: int) -> float:
    """Classes sorted by logit, earlier ones first among equals, one sample after the other."""
    hits = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranking = sorted(range(len(row)), key=lambda c, row=row: (-row[c], c))
        hits += label in ranking[:most]
    return hits / len(labels)


@pytest.mark.parametrize("logits", [DISTINCT, TIED], ids=["distinct", "tied"])
def test_against_a_loop(logits: np.ndarray) -> None:
    labels = _labels(*logits.shape)
    result = score(logits, labels)
    assert result.count == len(logits)
    assert result.top1 == _top_by_loop(logits, labels, 1)
    assert result.top5 == _top_by_loop(logits, labels, 5)


@pytest.mark.parametrize("logits", [DISTINCT, TIED], ids=["distinct", "tied"])
def test_top1_is_argmax(logits: np.ndarray) -> None:
    labels = _labels(*logits.shape)
    assert score(logits, labels).top1 == (logits.argmax(1) == labels).mean()


def test_against_torch() -> None:
    labels = _labels(*DISTINCT.shape)
    result = score(DISTINCT, labels)
    logits, wanted = torch.from_numpy(DISTINCT).double(), torch.from_numpy(labels).long()
    top5 = logits.topk(5).indices == wanted[:, None]
    assert result.top1 == pytest.approx(top5[:, :1].any(1).double().mean().item())
    assert result.top5 == pytest.approx(top5.any(1).double().mean().item())
    assert result.loss == pytest.approx(F.cross_entropy(logits, wanted).item(), rel=1e-12)


def test_all_classes_alike() -> None:
    """Nothing is known, so the first class is guessed: no credit for a tie."""
    result = score(np.zeros((10, 10), np.float32), np.arange(10, dtype=np.int32))
    assert (result.top1, result.top5) == (0.1, 0.5)
    assert result.loss == pytest.approx(np.log(10))


def test_fewer_than_five_classes() -> None:
    result = score(RANDOM.standard_normal((20, 3)).astype(np.float32), _labels(20, 3))
    assert result.top5 == 1


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[1e4, 0, -1e4], [3e38, -3e38, 0]], np.float32)
    assert score(logits, np.array([0, 0], np.int32)).loss == 0
    assert score(logits[:1], np.array([2], np.int32)).loss == 2e4


def test_what_went_in_comes_out() -> None:
    labels = _labels(*DISTINCT.shape)
    result = score(DISTINCT, labels)
    np.testing.assert_array_equal(result.logits, DISTINCT)
    np.testing.assert_array_equal(result.labels, labels)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("broken", [slice(None), slice(3, 4), slice(0, 1)], ids=["all", "the label's", "another"])
def test_a_network_that_gives_nan_knows_nothing(broken: slice, value: float) -> None:
    """Comparisons with NaN are all false, and infinity is the largest: neither makes a label right."""
    logits = np.zeros((4, 10), np.float32)
    logits[:, 3] = 1
    logits[:, broken] = value
    result = score(logits, np.full(4, 3, np.int32))
    assert (result.top1, result.top5) == (0, 0)
    assert result.recorded | {"loss": 0} == {"loss": 0, "top1": 0, "top5": 0, "not_finite": 4}
    assert result.headline.endswith("but NaN or infinity for 4 images")
