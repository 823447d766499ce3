"""Opens files that are damaged or made to do harm, of every format, again and again.

    python -m tests.fuzz_openers --minutes 10 [--openers pth onnx] [--seed 1] [--directory DIR]

Each input is a valid file (see `fuzz_seeds`) after a few mutations (see `mutations`), opened in a worker: a process
that takes many inputs, is watched, and is started again when it ends. An input is opened, or refused with a UserError
of one line. Anything else is a failure: another exception, a signal, more than 30 seconds of processor time or no end
after four times that, more than 2 GiB of resident memory. What failed is kept in DIR/failures with the reason. Openers
take turns by the time they have used. Prints a table; exit status 1 after a failure. Seed, opener and number make the
same input again: --repeat.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[1]
MOST_SECONDS, MOST_BYTES = 30, 2 << 30
LONGEST_START = 240  # seconds, for imports and compiling on a busy machine
INPUTS_PER_WORKER = 1000


def tree_of(seeds: Path, opener: str, seed: int, number: int) -> dict[str, bytes]:
    """The mutated files of an input, two thirds of them sealed again; number 0 is the valid ones."""
    from tests.fuzz_seeds import SPECIAL, read_tree, sealed_again
    from tests.mutations import mutated_tree

    tree = read_tree(seeds / opener)
    if number:
        tree = mutated_tree(tree, random.Random(f"{seed}/{opener}/{number}"), SPECIAL)
        tree = sealed_again(tree) if number % 3 else tree
    return tree


def outcome_of(opener: str, folder: Path) -> dict[str, str]:
    """Opens the files in a folder: {"opened": ""}, {"refused": message} or {"failed": traceback}."""
    from cdnv2_jax.errors import UserError
    from tests.fuzz_seeds import OPENERS

    try:
        OPENERS[opener].open(folder)
    except UserError as error:
        lines = str(error).strip().splitlines()
        is_one = len(lines) == 1 and len(lines[0]) < 2000
        return {"refused": lines[0]} if is_one else {"failed": f"a message of {len(lines)} lines: {error}"[:3000]}
    except BaseException as error:
        return {"failed": "".join(traceback.format_exception(error))[-6000:]}
    return {"opened": ""}


def work(seeds: Path, scratch: Path, seed: int) -> None:
    """A worker: reads openers and numbers, answers with an outcome and the peak of memory, in lines of JSON."""
    from tests.fuzz_seeds import write_tree

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        opener, number = json.loads(line)
        write_tree(scratch, tree_of(seeds, opener, seed, number))
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        found = outcome_of(opener, scratch)
        print(json.dumps({**found, "peak": _memory("self", "VmHWM")}), file=answers, flush=True)


def _memory(process: int | str, field: str) -> int:
    """Bytes of a field of a process's status; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) << 10
    return 0


def _processor_seconds(process: int) -> float:
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(process).cpu_times()
        return times.user + times.system
    return 0.0


class Worker:
    """A process that opens inputs; it is started when it is needed."""

    def __init__(self, directory: Path, seed: int):
        self._directory, self._seed, self._inputs = directory, seed, 0
        self._process: subprocess.Popen[str] | None = None

    def open(self, opener: str, number: int) -> dict[str, Any]:
        """The outcome of an input."""
        if self._process is None or self._inputs >= INPUTS_PER_WORKER:
            self.stop()
            self._start()
        self._inputs += 1
        process = self._process
        assert process is not None and process.stdin is not None
        print(json.dumps([opener, number]), file=process.stdin, flush=True)
        found = self._answer(MOST_SECONDS)
        if found.get("peak", 0) > MOST_BYTES:
            found = {"failed": f"{found['peak'] / 2**30:.1f} GiB of memory"}
        return found

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process, self._inputs = None, 0

    def _start(self) -> None:
        command = [sys.executable, "-m", "tests.fuzz_openers", "--worker", "--seed", str(self._seed)]
        environment = {
            **os.environ,
            **{"HOME": str(self._directory / "home"), "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"},
            **{"XLA_FLAGS": "--xla_backend_optimization_level=0", "OMP_NUM_THREADS": "1"},
        }
        with (self._directory / "stderr").open("w") as printed:
            self._process = subprocess.Popen(
                [*command, "--directory", str(self._directory)],
                **{"cwd": REPOSITORY, "env": environment, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
                stderr=printed,
                text=True,
            )
        if "failed" in (found := self._answer(LONGEST_START)):
            sys.exit(f"a worker does not start: {found['failed']}")

    def _answer(self, most_seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdout is not None
        start, before = time.monotonic(), _processor_seconds(process.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not selector.select(0.1):
                memory, busy = _memory(process.pid, "VmRSS"), _processor_seconds(process.pid) - before
                waited = time.monotonic() - start  # on a busy machine far more than the processor time
                if memory > 1.5 * MOST_BYTES or busy > most_seconds or waited > 4 * most_seconds:
                    self.stop()
                    used = f"{busy:.0f} seconds of processor time, {memory / 2**30:.1f} GiB of memory"
                    return {"failed": f"no end after {waited:.0f} seconds, {used}"}
            if line := process.stdout.readline():
                return json.loads(line)
        status = process.wait()
        self.stop()
        printed = (self._directory / "stderr").read_text(errors="replace")
        return {"failed": f"the process ended with {status}: {printed[-3000:]}"}


def inputs(openers: Sequence[str], deadline: float, used: dict[str, float]) -> Iterator[tuple[str, int]]:
    """Openers and numbers until the time is over, always of the opener that has used the least time."""
    numbers = collections.Counter(dict.fromkeys(openers, 0))
    while time.monotonic() < deadline:
        opener = min(openers, key=lambda name: (numbers[name] > 0, used[name]))
        yield opener, numbers[opener]
        numbers[opener] += 1


def fuzz(openers: Sequence[str], minutes: float, seed: int, directory: Path) -> int:
    """Opens inputs for some minutes; prints a table and returns the number of failures."""
    from tests.fuzz_seeds import write_tree

    worker, deadline = Worker(directory, seed), time.monotonic() + 60 * minutes
    counts = {name: collections.Counter[str]() for name in openers}
    used, slowest, peak = (dict.fromkeys(openers, 0.0) for _ in range(3))
    for opener, number in inputs(openers, deadline, used):
        start = time.monotonic()
        found = worker.open(opener, number)
        kind, said = next(iter(found.items()))
        if number == 0 and kind != "opened":
            kind, said = "failed", f"the valid files: {kind}: {said}"
        counts[opener][kind] += 1
        slowest[opener] = max(slowest[opener], time.monotonic() - start)
        used[opener] += time.monotonic() - start
        peak[opener] = max(peak[opener], found.get("peak", 0) / 2**20)
        if kind == "failed":
            kept = directory / "failures" / f"{opener.replace(' ', '_')}-{seed}-{number}"
            write_tree(kept, tree_of(directory / "seeds", opener, seed, number))
            (kept.parent / f"{kept.name}.txt").write_text(said)
            print(f"{kept}: {said.strip().splitlines()[-1][:200]}", flush=True)
    worker.stop()
    print(f"{'opener':22}{'inputs':>8}{'opened':>8}{'refused':>8}{'failed':>8}{'slowest, s':>12}{'peak, MiB':>11}")
    for name, count in counts.items():
        columns = "".join(f"{count[kind]:8}" for kind in ("opened", "refused", "failed"))
        print(f"{name:22}{count.total():8}{columns}{slowest[name]:12.1f}{peak[name]:11.0f}")
    return sum(count["failed"] for count in counts.values())


def write_seeds(openers: Sequence[str], seeds: Path) -> None:
    """Writes the valid files of each opener into a folder of its name."""
    from tests.fuzz_seeds import OPENERS

    for name in openers:
        if not (seeds / name).exists():
            (seeds / name).mkdir(parents=True)
            OPENERS[name].write(seeds / name)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Open damaged and hostile files of every format.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--openers", nargs="+", help="only these (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="to work in and keep failures in (default: a temporary one)")
    parser.add_argument("--repeat", nargs=2, metavar=("OPENER", "NUMBER"), help="open one input in this process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    directory = (options.directory or Path(tempfile.mkdtemp(prefix="fuzz_openers_"))).absolute()
    if options.worker:
        work(directory / "seeds", directory / "input", options.seed)
        return 0
    from tests.fuzz_seeds import OPENERS, write_tree

    openers = options.openers or list(OPENERS)
    write_seeds(openers, directory / "seeds")
    if options.repeat:
        opener, number = options.repeat[0], int(options.repeat[1])
        write_tree(directory / "input", tree_of(directory / "seeds", opener, options.seed, number))
        print(next(iter(outcome_of(opener, directory / "input").items())))
        return 0
    failures = fuzz(openers, options.minutes, options.seed, directory)
    print(f"{failures} failures, kept in {directory / 'failures'}" if failures else "no failure")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
