"""Readers that hang, are stopped or die: noticed, named and left behind; those that are only slow are waited for."""

import signal
import time

import pytest

from cdnv2_jax.data.augment import Augmentation
from cdnv2_jax.data.batches import EvaluationRow, Share, TrainingRow
from cdnv2_jax.data.prefetch import host_batches
from cdnv2_jax.data.preparation import IMAGENET, ImagePreparation
from cdnv2_jax.data.watchdog import Patience, ending
from cdnv2_jax.errors import RunFailure
from tests.data.readers import Failing

SIDE = 8
BRIEF = Patience(sample=0.4, start=60, poll=0.05, leave=0.1)


def _read(source: Failing, workers: int = 0, patience: Patience = BRIEF, *, rows: int = 2) -> tuple[list[int], str]:
    """The first grey level of each batch of an evaluation, and what the failure says that ends it, if any."""
    row = EvaluationRow(source, Share(rows), ImagePreparation(SIDE, "whole", "bilinear", *IMAGENET))
    came = []
    try:
        with host_batches(row, 0, -(-len(source) // rows), workers, patience) as batches:
            for batch in batches:
                came.append(int(batch["image"][0, 0, 0, 0]))
    except RunFailure as failure:
        return came, str(failure)
    return came, ""


def test_an_image_that_hangs_is_named_and_left_behind() -> None:
    start = time.monotonic()
    came, failure = _read(Failing(12, at=7, how="hang"))
    assert came == [0, 2, 4]
    assert "has been reading sample 7 for 0.4" in failure and "repeat the command" in failure
    assert time.monotonic() - start < 10


def test_the_image_that_hangs_is_named_not_the_broken_one_before() -> None:
    source = Failing(3, at=1, how="hang", damaged=(0, 2))
    row = TrainingRow(source, Share(1), 0, Augmentation(SIDE))
    with pytest.raises(RunFailure, match="reading sample 1 for"), host_batches(row, 0, 3, 0, BRIEF) as batches:
        list(batches)


def test_images_that_are_slow_are_waited_for() -> None:
    """A batch takes twice as long as a single image may."""
    came, failure = _read(Failing(16, delay=0.1), rows=8)
    assert (came, failure) == ([0, 8], "")


def test_a_step_that_takes_long_is_not_the_readers_fault() -> None:
    row = EvaluationRow(Failing(12), Share(2), ImagePreparation(SIDE, "whole", "bilinear", *IMAGENET))
    with host_batches(row, 0, 6, 0, Patience(sample=0.1, poll=0.02)) as batches:
        for _ in batches:
            time.sleep(0.2)


def test_no_memory_for_an_image() -> None:
    came, failure = _read(Failing(12, at=7, how="memory"))
    assert came == [0, 2, 4]
    assert failure.startswith("no memory is left to prepare sample 7: use fewer config.data.workers")


def test_a_worker_that_is_killed() -> None:
    came, failure = _read(Failing(12, at=7, how="SIGKILL"), workers=1, patience=Patience())
    assert came == [0, 2, 4][: len(came)]  # what it has made is lost
    assert "was killed by SIGKILL while reading sample 7, as the kernel does when memory runs out" in failure


@pytest.mark.soak  # three times two processes that import the package
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("SIGSEGV", "was killed by SIGSEGV while reading sample 7, its decoder crashed: remove"),
        ("SIGSTOP", "has been reading image 7 for"),
        ("hang", "has been reading sample 7 for"),
        ("exit", "ended while reading sample 7 with exit status 0"),
        ("memory", "no memory is left to prepare sample 7"),
    ],
)
def test_a_worker_that_fails(how: str, expected: str) -> None:
    start = time.monotonic()
    came, failure = _read(Failing(12, at=7, how=how), workers=2, patience=Patience(sample=8))
    assert came == [0, 2, 4][: len(came)]
    assert expected in failure
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("exitcode", "expected"),
    [
        (-signal.SIGKILL, "was killed by SIGKILL, as the kernel does when memory runs out: use fewer"),
        (-signal.SIGBUS, "was killed by SIGBUS, as when /dev/shm is full: enlarge it"),
        (-signal.SIGABRT, "was killed by SIGABRT, its decoder crashed"),
        (-60, "was killed by signal 60"),
        (3, "ended with exit status 3: look at what it printed"),
    ],
)
def test_ends_of_a_process(exitcode: int, expected: str) -> None:
    assert ending(exitcode, "").startswith(expected)
