"""Runs a module in a process of its own and reads the JSON lines it prints, for a limited time."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def printed_by(
    module: str, arguments: Sequence[str], seconds: float, environment: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """What `python -m module` prints, line by line as it comes; whatever is no JSON object is passed over.

    The process ends by itself, or is killed when the time is up or nobody wants its lines any more.
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
