"""Runs in a bucket that does not answer for a while, or not at all."""

import subprocess
import time
from pathlib import Path

import pytest

from cdnv2_jax.buckets import BucketPath
from cdnv2_jax.commands.main import main
from tests.bucket_server import BUCKET, BucketServer, bucket_server, downloaded
from tests.commands.interrupted import RUN, assert_ends_like, in_a_process_of_its_own

pytestmark = pytest.mark.soak  # a bucket is given minutes to answer

HANGS, FAILS = "hangs", "ends for a while"


@pytest.mark.parametrize("bucket", [HANGS, FAILS])
def test_bucket_that_is_away(bucket: str, tmp_path: Path) -> None:
    """For half a minute: the run waits. For good: it ends in one line, and the same command resumes it.

    Either way it ends like one on a disk, bit for bit.
    """
    assert main(["train", *RUN, "--workdir", str(tmp_path / "on_a_disk")]) == 0
    with bucket_server() as server:
        workdir = BucketPath(f"gs://{BUCKET}/run")
        process = _run_until_the_first_checkpoint(workdir)
        if bucket == HANGS:
            server.freeze()
            time.sleep(30)
            server.thaw()
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
        else:
            _is_told(process, server)
            assert main(["train", *RUN, "--workdir", str(workdir)]) == 0
        assert_ends_like(downloaded(workdir, tmp_path / "run"), tmp_path / "on_a_disk")


def _run_until_the_first_checkpoint(workdir: BucketPath) -> subprocess.Popen[str]:
    process = in_a_process_of_its_own("--workdir", str(workdir))
    deadline = time.monotonic() + 200
    while not (workdir / "checkpoints" / "3" / "commit_success.txt").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.2)
    return process


def _is_told(process: subprocess.Popen[str], server: BucketServer) -> None:
    server.kill()
    _, err = process.communicate(timeout=400)
    *_, last = err.splitlines()
    assert process.returncode in (1, 2) and "start the same command again" in last, err
    assert "Traceback" not in err
    server.start()
