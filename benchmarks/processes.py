"""Run a module in its own process, with a time limit, and read the JSON lines it prints."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def printed_by(
    module: str, arguments: Sequence[str], seconds: float, environment: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects that `python -m module` prints, as they come; other lines are ignored.

    The process is killed when the time is up or the caller stops iterating.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        timer = threading.Timer(max(seconds, 0.0), process.kill)
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
        finally:
            timer.cancel()
            process.kill()
