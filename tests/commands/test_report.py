"""`main.py report`: the page of a run, finished, going on, or damaged, and of networks without a run."""

import json
import shutil
from pathlib import Path

import pytest
from flax import nnx

from cdnv2_jax import save
from cdnv2_jax.commands.report import read_run, run_figures
from cdnv2_jax.networks.family import build_network
from cdnv2_jax.networks.zoo import architecture_of
from tests.commands.runs import records_of, summary_of
from tests.commands.shell import Shell
from tests.plain_models import SMALL
from tests.report.html_page import HtmlPage
from tests.weights.official_files import save as save_official
from tests.weights.official_files import twin_in_form

TRAIN = {
    "kind": "train",
    "step": 1,
    "epoch": 0.5,
    "loss": 2.3,
    "accuracy": 0.1,
    "learning_rate": 0.1,
    "stage": 0,
    "sparsity": 0.0,
    "images_per_second": 10.0,
}


@pytest.mark.parametrize("workdir", ["missing", "empty", "file"])
def test_no_run(workdir: str, shell: Shell) -> None:
    Path("empty").mkdir()
    Path("file").write_text("mine")
    assert f"--workdir {workdir} holds no run" in shell.refuses("main.py", "report", "--workdir", workdir)


DAMAGED = {
    "no JSON": "hello\n",
    "a list": "[1, 2]\n",
    "a number": "3\n",
    "null": "null\n",
    "no kind": '{"step": 1}\n',
    "no step": '{"kind": "train"}\n',
    "no loss": '{"kind": "train", "step": 1}\n',
    "text for a step": json.dumps({**TRAIN, "step": "one"}) + "\n",
    "text for a loss": json.dumps({**TRAIN, "loss": {"a": 1}}) + "\n",
    "a stage without its sparsity": '{"kind": "stage", "step": 1, "stage": 1}\n',
    "null for a sparsity": '{"kind": "stage", "step": 1, "stage": 1, "stages": 3, "sparsity": null}\n',
    "not text": bytes(range(128, 256)).decode("latin1") + "\n",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_damaged_metrics(text: str, shell: Shell) -> None:
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text(text)
    assert "run/metrics.jsonl" in shell.refuses("main.py", "report", "--workdir", "run")


def test_damaged_lines_among_whole_ones(shell: Shell) -> None:
    """The whole ones are shown, and the others named."""
    lines = (json.dumps(TRAIN), *DAMAGED.values(), json.dumps({**TRAIN, "step": 2}))
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_bytes("".join(line.strip("\n") + "\n" for line in lines).encode("latin1"))
    outcome = shell.run("main.py", "report", "--workdir", "run")
    assert (outcome.status, outcome.err.count("\n")) == (0, 1)
    assert outcome.err.startswith("run/metrics.jsonl: damaged lines are skipped: 2, 3, 4, ")
    assert "2 steps so far" in Path("run/report.html").read_text()


@pytest.mark.parametrize("records", [0, 1])
def test_run_that_has_hardly_begun(records: int, shell: Shell) -> None:
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text((json.dumps(TRAIN) + "\n") * records)
    shell.succeeds("main.py", "report", "--workdir", "run")
    assert Path("run/sparsity.png").stat().st_size > 1000


def test_line_cut_off_by_a_crash(shell: Shell) -> None:
    """The last line of a run that lost its power may be half a record: the others still count."""
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text(json.dumps(TRAIN) + '\n{"kind": "train", "st')
    shell.succeeds("main.py", "report", "--workdir", "run")
    assert Path("run/learning_curves.png").stat().st_size > 1000


def _page(file: str | Path) -> HtmlPage:
    """The page in a file, which must be a right one."""
    page = HtmlPage(Path(file).read_text(encoding="utf-8"))
    assert page.faults == []
    return page


def _sections(page: HtmlPage) -> list[str]:
    return [attributes["id"] or "" for tag, attributes in page.tags if tag == "section"]


def _copy(run: Path, *names: str) -> Path:
    """The run's directory as it is or, with names, of these files and directories alone."""
    if not names:
        return Path(shutil.copytree(run, "run"))
    Path("run").mkdir()
    for name in names:
        copy = shutil.copytree if (run / name).is_dir() else shutil.copy
        copy(run / name, Path("run") / name)
    return Path("run")


def test_finished_run(smoke_run: Path, shell: Shell) -> None:
    """All figures of the summary, all fields of the config, every mistake counted."""
    workdir = _copy(smoke_run)
    assert "run/report.html" in shell.succeeds("main.py", "report", "--workdir", "run")
    page = _page(workdir / "report.html")
    assert _sections(page) == ["figures", "learning", "connections", "mistakes", "config"]
    summary = summary_of(workdir)
    for form in ("masked", "condensed"):
        assert f"{summary[form]['accuracy']:.2%}" in page.text and f"{summary[form]['params']:,}" in page.text
    assert "config.optimizer.learning_rate" in page.text and "3 of 3 condensation stages passed" in page.text
    wrong = 360 - round(360 * summary["condensed"]["accuracy"])
    assert f"{wrong} of 360 held-out images" in page.text
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == min(wrong, 12) and all((p["src"] or "").startswith("data:image/png") for p in pictures)
    drawings = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(drawings) == 3 + 6 + 1  # learning, connections of both kinds, confusion
    assert (workdir / "report.html").stat().st_size < 2e6


@pytest.mark.usefixtures("shell")
def test_figures_that_older_runs_did_not_record(smoke_run: Path) -> None:
    """Multiply-adds and bytes are counted again; with "live" metrics beside them, the others are averaged."""
    workdir = _copy(smoke_run, "config.json", "summary.json", "metrics.jsonl", "masked", "condensed")
    recorded = summary_of(workdir)
    older = {key: value for key, value in recorded.items() if key not in ("weights", "EMA")}
    for form in ("masked", "condensed"):
        older[form] = {k: v for k, v in recorded[form].items() if k not in ("multiply_adds", "bytes_on_disk")}
    (workdir / "summary.json").write_text(json.dumps({**older, "live": {"accuracy": 0.125}}))
    [table, _] = run_figures(read_run(workdir)).tables
    rows = {name: cells for name, *cells in table.rows}
    forms = [recorded[form] for form in ("masked", "condensed")]
    assert table.head == ("", "masked", "condensed", "not kept")
    assert rows["weights"] == ["EMA", "EMA", "live"]
    assert rows["accuracy"] == [*(f"{form['accuracy']:.2%}" for form in forms), "12.50%"]
    assert rows["multiply-adds (true)"] == [*(f"{form['multiply_adds']:,}" for form in forms), ""]
    assert rows["size on disk"] == [*(f"{form['bytes_on_disk'] / 1e6:.2f} MB" for form in forms), ""]
    assert forms[1]["multiply_adds"] < forms[0]["multiply_adds"] and forms[0]["flops"] == forms[1]["flops"]


def test_run_that_goes_on(smoke_run: Path, shell: Shell) -> None:
    """What is there so far: metrics, the config, the best network."""
    _copy(smoke_run, "metrics.jsonl", "config.json", "best")
    shell.succeeds("main.py", "report", "--workdir", "run")
    page = _page("run/report.html")
    assert _sections(page) == ["figures", "learning", "connections", "config"]
    assert "The run has not ended: 2 steps so far" in page.text
    assert f"{records_of(smoke_run, 'eval')[-1]['top1']:.2%}" in page.text


def test_records_of_earlier_versions(shell: Shell) -> None:
    """Stages without what they cut."""
    Path("run").mkdir()
    stage = {"kind": "stage", "step": 1, "stage": 1, "stages": 3, "sparsity": 0.25}
    Path("run/metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (TRAIN, stage)))
    shell.succeeds("main.py", "report", "--workdir", "run")
    assert _sections(_page("run/report.html")) == ["figures", "learning"]


BROKEN_FILES = {
    "config.json": ["{", "[1]", '{"model": {}}', '{"task": "cooking"}', "[" * 100_000],
    "summary.json": [
        "{",
        "[1]",
        '{"condensed": {"accuracy": "all"}}',
        '{"condensed": 3}',
        '{"x": {"top5": 1%s}}' % ("0" * 400),
    ],
    "predictions.csv": [
        "",
        "image,label,predicted,probability\n0,10,0,0.5\n",
        "image,label,predicted,probability\n360,0,0,1\n",
    ],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BROKEN_FILES.items() for text in texts])
def test_damaged_files(name: str, text: str, smoke_run: Path, shell: Shell) -> None:
    _copy(smoke_run, "metrics.jsonl", "config.json", "summary.json", "predictions.csv")
    Path("run", name).write_text(text)
    assert f"run/{name}" in shell.refuses("main.py", "report", "--workdir", "run")


def test_letters_that_are_none(smoke_run: Path, shell: Shell) -> None:
    """Halves of pairs, which JSON lets pass and no file can hold; and text that looks like tags."""
    _copy(smoke_run, "metrics.jsonl", "config.json")
    config = json.loads(Path("run/config.json").read_text())
    config["data"]["directory"] = "\ud800<script>alert(1)</script>"
    Path("run/config.json").write_text(json.dumps(config))
    shell.succeeds("main.py", "report", "--workdir", "run")
    assert r"\ud800<script>alert(1)</script>" in _page("run/report.html").text


def test_damaged_network(smoke_run: Path, shell: Shell) -> None:
    _copy(smoke_run, "metrics.jsonl", "config.json", "masked")
    shutil.rmtree("run/masked/arrays")
    Path("run/masked/arrays").mkdir()
    assert "run/masked" in shell.refuses("main.py", "report", "--workdir", "run")


def test_images_that_are_no_longer_there(smoke_run: Path, shell: Shell) -> None:
    _copy(smoke_run, "metrics.jsonl", "config.json", "predictions.csv")
    config = json.loads(Path("run/config.json").read_text())
    config["data"] |= {"source": "image_folder", "directory": "gone"}
    Path("run/config.json").write_text(json.dumps(config))
    shell.succeeds("main.py", "report", "--workdir", "run")
    page = _page("run/report.html")
    assert "The held-out images are not available: gone" in page.text
    assert "class 3" in page.text and not [tag for tag, _ in page.tags if tag == "img"]


def _drawn(page: str, key: str) -> str:
    """One drawing of a page, by the beginning of its ids."""
    return next(svg for svg in Path(page).read_text(encoding="utf-8").split("<svg ")[1:] if f'id="{key}-' in svg)


def test_networks_without_a_run(smoke_run: Path, shell: Shell) -> None:
    """Masked and condensed: the same connections, line for line."""
    for form in ("masked", "condensed"):
        arguments = ("--checkpoint", smoke_run / form, "--output", f"{form}.html")
        assert shell.succeeds("main.py", "report", *arguments) == f"{form}.html\n"
        page = _page(f"{form}.html")
        assert _sections(page) == ["figures", "connections"]
        assert f"{summary_of(smoke_run)[form]['params']:,}" in page.text
    for key in ("lgc-groups", "lgc-readers", "sfr-groups", "sfr-readers"):
        assert _drawn("masked.html", key) == _drawn("condensed.html", key)


@pytest.mark.parametrize("form", [3, pytest.param("converted", marks=pytest.mark.slow)])  # a twin to build and convert
def test_official_files(form: int | str, shell: Shell) -> None:
    """Partly pruned and converted; the published networks beside it."""
    twin = twin_in_form(architecture_of("cdnv2_a"), form)
    save_official(Path("a.pth.tar"), {"state_dict_ema": twin.state_dict()})
    arguments = ("--checkpoint", "a.pth.tar", "--output", "page.html")
    assert "--model" in shell.refuses("main.py", "report", *arguments)
    printed = shell.succeeds("main.py", "report", *arguments, "--model", "cdnv2_a")
    assert "weights: EMA weights (state_dict_ema)" in printed
    page = _page("page.html")
    assert _sections(page) == ["figures", "connections", "published"]
    assert "45,874,350" in page.text and "shufflenet_v2_x1_0" in page.text
    assert ("3 of 7 condensation stages passed" in page.text) == (form == 3)


def test_plain_network(shell: Shell) -> None:
    save("network", build_network(SMALL["mobilenet_v2"], name="mobilenet_v2_x1_0", rngs=nnx.Rngs(0)))
    shell.succeeds("main.py", "report", "--checkpoint", "network", "--output", "page.html")
    assert _sections(_page("page.html")) == ["figures"]


def test_mistakes(smoke_run: Path, shell: Shell) -> None:
    def complaint(*arguments: str | Path) -> str:
        return shell.refuses("main.py", "report", *arguments)

    Path("there.html").write_text("mine")
    masked = ("--checkpoint", smoke_run / "masked")
    assert "--checkpoint needs --output" in complaint(*masked)
    assert "--output is for --checkpoint" in complaint("--workdir", smoke_run, "--output", "page.html")
    assert "not allowed with" in complaint(*masked, "--workdir", smoke_run, "--output", "page.html")
    assert "there.html exists" in complaint(*masked, "--output", "there.html")
    assert "missing: no such" in complaint("--checkpoint", "missing", "--output", "page.html")
    assert "there.html" in complaint("--checkpoint", "there.html", "--output", "page.html", "--model", "cdnv2_a")
    shell.succeeds("main.py", "report", *masked, "--output", "there.html", "--overwrite")
    assert _page("there.html").tags
