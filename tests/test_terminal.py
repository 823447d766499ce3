"""What is printed: text from outside is shown as it is, and outputs that are closed or full end a command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from cdnv2_jax import UserError
from cdnv2_jax.commands.arguments import guarded
from cdnv2_jax.data.sources.files import progress_bar
from cdnv2_jax.terminal import ClosedOutput, Terminal, be_silent, escaped, say

HOSTILE = {
    "[/red][link=file:///x]a[/] :smile:": "[/red][link=file:///x]a[/] :smile:",
    "\x1b[2Jgone\x07\x9b31m": "\\x1b[2Jgone\\x07\\x9b31m",
    "two\r\nlines\u2028": "two\\r\\nlines\\u2028",
    "\u202egpj.exe\u2066": "\\u202egpj.exe\\u2066",
    "caf\udce9 \ud83d": "caf\\udce9 \\ud83d",
    "zähne 猫 😀": "zähne 猫 😀",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_shown_not_obeyed(text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In lines, tables, errors and progress bars, also where colours and cursors work."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = HOSTILE[text]
    say(text, text)
    Terminal().print(text)
    assert capsys.readouterr().out.splitlines() == [shown] * 3
    table = Table(text, title=text, caption=text, width=120)
    table.add_row(text)
    Terminal().print(table)
    assert capsys.readouterr().out.count(shown) == 4

    def refuse() -> None:
        raise UserError(f"a {text} b")

    assert guarded(refuse, "it") == 2
    complaint = capsys.readouterr().err.removesuffix("\n")
    assert complaint == f"it: a {escaped(' '.join(text.split()))} b" and complaint.isprintable()
    with progress_bar(text, 2) as advance:
        advance(2)
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize("printed", [say, lambda line: Terminal().print(line)])
def test_outputs_that_take_nothing(printed, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for opened, error in ((writing, ClosedOutput), ("/dev/full", UserError)):
        with open(opened, "w", encoding="utf-8") as file, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", file)
            with pytest.raises(error):
                printed("something")
            printed("and more, which leads nowhere")


def test_closed_streams(tmp_path: Path) -> None:
    """What is printed does not end up in the next file that is opened."""
    script = (
        "import os, sys; from cdnv2_jax.terminal import prepare_streams, say; prepare_streams(); "
        "f = open(sys.argv[1], 'w'); say('out'); say('err', file=sys.stderr); os.write(2, b'library')"
    )
    opened = tmp_path / "opened"
    command = ["sh", "-c", '"$1" -c "$2" "$3" <&- >&- 2>&-', "sh", sys.executable, script, str(opened)]
    assert subprocess.run(command, check=False).returncode == 0
    assert opened.read_bytes() == b""


def test_one_of_several_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a silent process only errors are seen."""
    be_silent()
    try:
        say("line")
        Terminal().print("line")
        with progress_bar("reading", 2) as advance:
            advance(2)
        say("error", file=sys.stderr)
    finally:
        be_silent(False)
    assert capsys.readouterr() == ("", "error\n")


def test_terminal_of_open_mpi(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks have one that nobody watches: lines, and no bar."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with progress_bar("reading", 2) as advance:
        advance(2)
    assert capsys.readouterr().out == "reading …\n"
