"""Completion with the tab key, by the shells themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.shell import REPOSITORY

ASKED = {
    "cdnv2 ": {"train", "predict", "quickstart", "completion"},
    "cdnv2 export --format o": {"onnx"},
    "cdnv2 train --config dig": {"digits"},
    "cdnv2 train --config mi": {"mine.py"},
    "cdnv2 train --config shapes:retinanet,cdnv2_c": {"retinanet,cdnv2_c", "retinanet,cdnv2_c,smoke"},
    "cdnv2-convert --model x --ov": {"--overwrite"},
}
BASH = r"""
eval "$(cdnv2 completion bash)"
while IFS= read -r line; do
  COMP_LINE="$line" COMP_POINT=${#line} COMPREPLY=()
  _python_argcomplete "${line%% *}"
  echo "${COMPREPLY[@]}"
done
"""
FISH = "cdnv2 completion fish | source; while read line; echo (complete -C $line | cut -f 1); end"
ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'autoload -Uz compinit; compinit -u -D; eval "$(cdnv2 completion zsh)"; PS1=; echo re""ady'
zpty -r shell seen '*ready*'
while read -r line; do
  zpty -w -n shell "$line"$'\t'
  zpty -r -m shell seen '*smoke*'
  print -r -- "$seen"
done
zpty -d shell
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands are on the path, as installation puts them there, and there is a file to be found."""
    for name, module in (("cdnv2", "main"), ("cdnv2-convert", "convert")):
        script = tmp_path / name
        script.write_text(f"#!{sys.executable}\nfrom cdnv2_jax.commands.{module} import program\nprogram()\n")
        script.chmod(0o755)
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HOME", str(tmp_path))


def answers(shell: list[str], code: str, lines: list[str]) -> list[str]:
    """What the shell would write or offer after each line."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    done = subprocess.run(
        [*shell, "-c", code], input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.usefixtures("commands")
def test_bash() -> None:
    found = [set(answer.split()) for answer in answers(["bash", "--norc"], BASH, list(ASKED))]
    assert all(expected <= words for expected, words in zip(ASKED.values(), found, strict=True)), found
    assert all(len(words) <= 2 for words in found[1:])


@pytest.mark.usefixtures("commands")
def test_fish() -> None:
    assert answers(["fish"], FISH, ["cdnv2 train --config digits:s"]) == ["digits:smoke"]


@pytest.mark.usefixtures("commands")
def test_zsh() -> None:
    assert "digits:smoke" in "".join(answers(["zsh", "-f"], ZSH, ["cdnv2 train --config digits:s"]))


def test_nothing_slow_is_imported() -> None:
    """Modules, not seconds: a shell waits for what a completion imports."""
    script = (
        "import sys, os; os.environ['_ARGCOMPLETE'] = '1'; from cdnv2_jax.commands import completion, main;"
        "list(completion.configs('imagenet:')); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"jax", "numpy", "flax", "cdnv2_jax.commands.read_config"} & set(done.stdout.split())
