"""Where a run may write: never over anything that is not the same run's."""

import json
from pathlib import Path

import pytest

from tests.commands.shell import DIGITS, TINY, Shell

FOREIGN = "holds files that are not a run's: give an empty or new directory"
CONFIG_OF_ANOTHER = json.dumps({"model": {"name": "cdnv2_cifar_110"}, "epochs": 7, "seed": 0}).encode()
DAMAGED = {
    "nothing": b"",
    "half of it": b'{"epochs": 1, "mod',
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "not text": bytes(range(128, 256)),
}


@pytest.mark.parametrize(
    ("file", "content", "workdir", "arguments", "complaint"),
    [
        ("file", b"mine", "file/run", (), "cannot be used"),
        ("file", b"mine", "file", (), "cannot be used"),
        ("home/thesis.tex", b"mine", "home", (), FOREIGN),
        ("home/thesis.tex", b"mine", "home", ("--overwrite",), FOREIGN),
        ("thesis.tex", b"mine", ".", (), FOREIGN),
        ("run/config.json/notes.txt", b"mine", "run", (), FOREIGN),
        ("run/config.json", CONFIG_OF_ANOTHER, "run", (), "holds a run of another config"),
        *(("run/config.json", content, "run", (), "config.json is damaged") for content in DAMAGED.values()),
    ],
)
def test_refused(
    file: str, content: bytes, workdir: str, arguments: tuple[str, ...], complaint: str, shell: Shell
) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_bytes(content)
    said = shell.refuses("main.py", "train", "--config", DIGITS, "--workdir", workdir, *TINY, *arguments)
    assert f"--workdir {workdir}" in said and complaint in said
    if content == CONFIG_OF_ANOTHER:
        assert "epochs" in said and "seed" not in said and "--overwrite" in said
