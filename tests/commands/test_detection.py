"""Training and evaluating detectors: the files of a run, its figures, resuming, and what is refused."""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cdnv2_jax import condense, create_model, prune, save
from cdnv2_jax.commands.main import main
from cdnv2_jax.detection.evaluation import FIGURES
from cdnv2_jax.weights.checkpoint import flat_arrays, load_detector
from tests.commands.detection_runs import config_of, train
from tests.commands.runs import checkpoints_of, records_of, summary_of
from tests.commands.shell import Shell
from tests.report.html_page import HtmlPage

# Two compilations of a detector, for training and for evaluation, and one more of its condensed form.
pytestmark = pytest.mark.slow

FILES = {
    *("best", "checkpoints", "condensed", "masked", "tensorboard", "config.json", "data.json", "metrics.jsonl"),
    *("summary.json", "lock", "learning_curves.png", "sparsity.png", "detections.png", "detections.json"),
    "precision.json",
}
COSTS = ("multiply_adds", "params", "bytes_on_disk", "ms_per_image")
EPOCHS = ("--config.epochs=2", "--config.checkpoint_every_epochs=1")


DETECTORS = ("faster_rcnn", pytest.param("retinanet", marks=pytest.mark.soak))  # another half a minute


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished run, `faster_rcnn`, and the images `drawn`. To be read only."""
    directory = tmp_path_factory.mktemp("detection")
    _run_of("faster_rcnn", directory)
    return directory


def _run_of(detector: str, runs: Path) -> Path:
    """The work directory of a finished run in `runs`, which is trained the first time."""
    if not (runs / detector).exists():
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
            patch.chdir(runs)
            assert main(list(train(detector, detector, *EPOCHS))) == 0
    return runs / detector


@pytest.fixture
def beside(runs: Path, shell: Shell) -> Shell:
    """A shell in an empty directory that sees the run's images and networks."""
    for name in ("drawn", "faster_rcnn"):
        (shell.directory / name).symlink_to(runs / name)
    return shell


@pytest.mark.parametrize("detector", DETECTORS)
def test_files_and_figures(detector: str, runs: Path) -> None:
    workdir = _run_of(detector, runs)
    assert {entry.name for entry in workdir.iterdir()} == FILES
    summary = summary_of(workdir)
    assert list(summary) == ["weights", "masked", "condensed", "EMA", "live", "stages_passed"]
    for form in ("masked", "condensed"):
        assert list(summary[form]) == [*FIGURES, "truncated", *COSTS]
    assert all(abs(summary["masked"][name] - summary["condensed"][name]) < 1e-3 for name in FIGURES)
    assert summary["masked"]["multiply_adds"] > summary["condensed"]["multiply_adds"]
    assert summary["stages_passed"] == 7
    with Image.open(workdir / "detections.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 100


@pytest.mark.parametrize("detector", DETECTORS)
def test_metrics(detector: str, runs: Path) -> None:
    workdir = _run_of(detector, runs)
    trained, evaluated = (records_of(workdir, kind) for kind in ("train", "eval"))
    parts = ["class_loss", "box_loss"] + (["rpn_class_loss", "rpn_box_loss"] if detector == "faster_rcnn" else [])
    assert set(parts) == {name for name in trained[0] if name.endswith("_loss")}
    for record in trained:
        assert record["loss"] == pytest.approx(sum(record[part] for part in parts), rel=1e-5)
    assert all(np.isfinite(record["loss"]) for record in trained)
    assert [record["AP"] for record in evaluated][-1] == summary_of(workdir)["EMA"]["AP"]


@pytest.mark.parametrize("detector", DETECTORS)
def test_condensed_finds_the_same(detector: str, runs: Path) -> None:
    """Box by box, on random images of which some fill the canvas and some do not."""
    workdir = _run_of(detector, runs)
    masked, condensed = (load_detector(workdir / form)[0] for form in ("masked", "condensed"))
    assert condensed.backbone.form.condensed and not masked.backbone.form.condensed
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3)).at[1, :, 32:].set(0)
    sizes = jnp.array([[64, 64], [64, 32]])
    ours, theirs = (
        jax.jit(lambda state, graph=graph: nnx.merge(graph, state).detect(images, sizes))(state)
        for graph, state in map(nnx.split, (masked, condensed))
    )
    np.testing.assert_array_equal(ours.valid, theirs.valid)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


def test_eval_prints_what_the_run_found(beside: Shell) -> None:
    arguments = ("eval", *config_of("faster_rcnn"))
    arguments += ("--checkpoint", "faster_rcnn/condensed", "--output", "found.json", "--per-class", "classes.csv")
    printed = beside.succeeds("main.py", *arguments)
    assert f"{summary_of(Path('faster_rcnn'))['condensed']['AP']:.3f}" in printed
    assert "multiply-adds for 64 × 64 pixels" in printed and "published" not in printed
    found = json.loads(Path("found.json").read_text())
    assert found
    assert found == json.loads(Path("faster_rcnn/detections.json").read_text())
    with Path("classes.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["class", "objects", "AP", "AP50", "AP75"] and len(rows) == 6
    assert "found.json exists" in beside.refuses("main.py", *arguments)


def test_predict_finds_what_eval_found(beside: Shell) -> None:
    """From the files alone, in other batches: the same boxes, and the images' numbers are those of the annotations."""
    (pictures,) = Path("drawn").glob("*/val")
    arguments = ("main.py", "predict", "--checkpoint", "faster_rcnn", "--format", "coco", "--batch-size", "3")
    outcome = beside.run(*arguments, pictures)
    assert outcome.status == 0 and "network: faster_rcnn/condensed" in outcome.err
    found, expected = json.loads(outcome.out), json.loads(Path("faster_rcnn/detections.json").read_text())
    key = lambda one: (one["image_id"], one["category_id"], -round(one["score"], 5), one["bbox"])  # noqa: E731
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        np.testing.assert_allclose(ours["bbox"], theirs["bbox"], atol=1e-2)


def _own_data(name: str, change: Callable[[dict[str, Any]], object]) -> str:
    """Copy the drawn images to the directory `name`, with changed annotations of the held-out ones."""
    (drawn,) = Path("drawn").iterdir()
    shutil.copytree(drawn, name)
    file = Path(name, "annotations/instances_val.json")
    made = json.loads(file.read_text())
    change(made)
    file.write_text(json.dumps(made))
    return f"--config.data.directory={name}"


def _renumber(made: dict[str, Any]) -> None:
    """Swap the first two categories' ids, and write text as ids of images."""
    first, second = (one["id"] for one in made["categories"][:2])
    swapped = {first: second, second: first}
    for one in made["categories"]:
        one["id"] = swapped.get(one["id"], one["id"])
    for one in made["images"]:
        one["id"] = f"no. {one['id']}"
    for one in made["annotations"]:
        one["category_id"] = swapped.get(one["category_id"], one["category_id"])
        one["image_id"] = f"no. {one['image_id']}"


def _keep_two(made: dict[str, Any]) -> None:
    kept = [one for one in made["categories"] if one["name"] in ("circle", "star")]
    made["categories"], ids = kept, {one["id"] for one in kept}
    made["annotations"] = [one for one in made["annotations"] if one["category_id"] in ids]


def test_eval_on_data_with_other_categories(beside: Shell) -> None:
    """Classes are matched by name: with other ids the same detections and figures, of fewer classes those."""
    checkpoint = ("--checkpoint", "faster_rcnn/condensed")
    arguments = ("eval", *config_of("faster_rcnn"), *checkpoint, "--config.data.source=coco")
    found = json.loads(Path("faster_rcnn/detections.json").read_text())
    other = _own_data("other", _renumber)
    printed = beside.succeeds("main.py", *arguments, other, "--output", "other.json")
    assert f"{summary_of(Path('faster_rcnn'))['condensed']['AR100']:.3f}" in printed and "images of other" in printed
    ids = {1: 3, 3: 1}
    assert json.loads(Path("other.json").read_text()) == [
        one | {"image_id": f"no. {one['image_id']}", "category_id": ids.get(one["category_id"], one["category_id"])}
        for one in found
    ]
    some = _own_data("some", _keep_two)
    printed = beside.succeeds("main.py", *arguments, some, "--output", "some.json", "--per-class", "classes.csv")
    assert "3 of 5 classes are no category of the held-out images and not evaluated: 'square', 'triangle'" in printed
    assert json.loads(Path("some.json").read_text()) == [one for one in found if one["category_id"] in (1, 18)]
    assert [row.split(",")[0] for row in Path("classes.csv").read_text().split()] == ["class", "circle", "star"]
    unknown = _own_data("unknown", lambda made: made["categories"][0].update(name="disc"))
    assert "faster_rcnn/condensed does not know 'disc'" in beside.refuses("main.py", *arguments, unknown)


def test_eval_without_annotations(beside: Shell) -> None:
    """As of COCO's test-dev: the detections are written, nothing is scored."""
    checkpoint = ("--checkpoint", "faster_rcnn/condensed")
    arguments = ("eval", *config_of("faster_rcnn"), *checkpoint, "--config.data.source=coco")
    arguments += (_own_data("own", lambda made: made.pop("annotations")),)
    assert "give --output for the detections" in beside.refuses("main.py", *arguments)
    assert "no --per-class" in beside.refuses("main.py", *arguments, "--output", "a.json", "--per-class", "a.csv")
    found = json.loads(Path("faster_rcnn/detections.json").read_text())
    printed = beside.succeeds("main.py", *arguments, "--output", "a.json")
    assert f"{len(found)} detections, not scored" in printed and "AP" not in printed
    assert json.loads(Path("a.json").read_text()) == found
    assert "no annotations, so that training could not be evaluated" in beside.refuses(
        "main.py", *train("faster_rcnn", "new"), *arguments[-2:]
    )


def test_train_and_val_of_different_categories(beside: Shell) -> None:
    own = _own_data("own", lambda made: made["categories"][1].update(name="rectangle"))
    printed = beside.refuses("main.py", *train("faster_rcnn", "new"), "--config.data.source=coco", own)
    assert "3 'rectangle' only in val, 3 'square' only in train" in printed


def test_results_are_what_pycocotools_reads(runs: Path) -> None:
    """Its own program, from the files alone, comes to the figures of the summary."""
    (truth,) = runs.glob("drawn/*/annotations/instances_val.json")
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(truth))
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(runs / "faster_rcnn/detections.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    summary = summary_of(runs / "faster_rcnn")["condensed"]
    assert [summary[name] for name in FIGURES] == pytest.approx(list(evaluation.stats))


def test_resuming_changes_nothing(beside: Shell, runs: Path) -> None:
    """From what is there when the first epoch is over: the same weights bit for bit, the same figures."""
    (first,) = sorted(map(int, checkpoints_of(Path("faster_rcnn"))))[:-1]
    for name in ("config.json", "metrics.jsonl", f"checkpoints/{first}"):
        copy = shutil.copytree if (runs / "faster_rcnn" / name).is_dir() else shutil.copy
        Path("again", name).parent.mkdir(parents=True, exist_ok=True)
        copy(runs / "faster_rcnn" / name, Path("again", name))
    assert f"resuming after step {first}" in beside.succeeds("main.py", *train("faster_rcnn", "again", *EPOCHS))
    ours, theirs = (flat_arrays(nnx.state(load_detector(Path(run) / "masked")[0])) for run in ("again", "faster_rcnn"))
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    for form in ("masked", "condensed"):
        again, before = (summary_of(Path(run))[form] for run in ("again", "faster_rcnn"))
        varying = {"ms_per_image": 0, "bytes_on_disk": 0}  # networks are stored with times
        assert {**again, **varying} == {**before, **varying}


def test_report_draws_again(beside: Shell, runs: Path) -> None:
    """The same picture, from the files that the run left."""
    Path("run").mkdir()
    for name in ("metrics.jsonl", "config.json", "detections.json", "precision.json", "summary.json"):
        shutil.copy(runs / "faster_rcnn" / name, "run")
    shutil.copytree(runs / "faster_rcnn/condensed", "run/condensed")
    printed = beside.succeeds("main.py", "report", "--workdir", "run")
    assert "run/detections.png" in printed
    assert Path("run/detections.png").read_bytes() == (runs / "faster_rcnn/detections.png").read_bytes()
    page = HtmlPage(Path("run/report.html").read_text(encoding="utf-8"))
    assert page.faults == []
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["figures", "learning", "connections", "precision", "detections", "config"]
    curves = json.loads(Path("run/precision.json").read_text())["curves"]
    figures = summary_of(Path("run"))["condensed"]
    for name, key in (("0.50", "AP50"), ("0.75", "AP75"), ("0.50:0.95", "AP")):
        assert np.mean(curves[name]) == pytest.approx(figures[key])
        assert f"IoU {name}: AP {figures[key]:.3f}" in page.text
    assert f"{summary_of(Path('run'))['condensed']['params']:,}" in page.text
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 8  # as many as are held out
    Path("run/detections.json").write_text("[{}]")
    assert "run/detections.json cannot be read" in beside.refuses("main.py", "report", "--workdir", "run")


def test_report_of_a_detector_alone(beside: Shell) -> None:
    beside.succeeds("main.py", "report", "--checkpoint", "faster_rcnn/masked", "--output", "page.html")
    page = HtmlPage(Path("page.html").read_text(encoding="utf-8"))
    assert page.faults == [] and "cdnv2_a, masked, 10 learned layers, 7 of 7 condensation stages passed" in page.text


def test_report_without_the_images(beside: Shell, runs: Path) -> None:
    Path("run").mkdir()
    for name in ("metrics.jsonl", "config.json", "detections.json"):
        shutil.copy(runs / "faster_rcnn" / name, "run")
    config = json.loads(Path("run/config.json").read_text())
    config["data"] |= {"source": "coco", "directory": "gone"}
    Path("run/config.json").write_text(json.dumps(config))
    beside.succeeds("main.py", "report", "--workdir", "run")
    page = HtmlPage(Path("run/report.html").read_text(encoding="utf-8"))
    assert page.faults == [] and "The held-out images are not available: gone" in page.text
    assert "Compared with published" not in page.text  # that these images are COCO's is not known


@pytest.mark.soak  # a third run, half a minute
def test_starting_from_a_condensed_classifier(beside: Shell) -> None:
    """It stays condensed: there is nothing to prune, and one network in the end."""
    model = create_model("cdnv2_a", num_classes=3, rngs=nnx.Rngs(0), stages=(1,) * 5)
    prune(model, 7)
    save("classifier", condense(model))
    beside.succeeds("main.py", *train("faster_rcnn", "run"), "--config.model.checkpoint=classifier")
    assert list(summary_of(Path("run"))) == ["weights", "condensed", "EMA", "live"]
    trained = load_detector(Path("run/condensed"))[0]
    assert trained.backbone.form.condensed


def test_mistakes(beside: Shell) -> None:
    def complaint(*more: str) -> str:
        return beside.refuses("main.py", *train("faster_rcnn", "new"), *more)

    assert "did you mean 'shapes'?" in complaint("--config.data.source=shape")
    assert "set config.model.num_classes to 5" in complaint("--config.model.num_classes=80")
    assert "config.data.directory is empty" in complaint("--config.data.source=coco", "--config.data.directory=")
    assert "nowhere" in complaint("--config.data.source=coco", "--config.data.directory=nowhere")
    assert "frozen_stages must be 5 or less" in complaint("--config.model.settings.frozen_stages=9")
    assert "no such file" in complaint("--config.model.checkpoint=missing")
    assert "no model is called 'cdnv2_x'" in complaint("--config.model.backbone=cdnv2_x")


def test_checkpoints_of_the_other_kind(beside: Shell) -> None:
    save("classifier", create_model("cdnv2_a", num_classes=3, rngs=nnx.Rngs(0)))
    arguments = ("eval", *config_of("faster_rcnn"), "--checkpoint")
    assert "holds a classifier, not a detector" in beside.refuses("main.py", *arguments, "classifier")
    other = ("eval", *config_of("retinanet"), "--checkpoint", "faster_rcnn/masked")
    assert "holds a faster_rcnn on cdnv2_a" in beside.refuses("main.py", *other)
    assert "holds a detector, not a classifier" in beside.refuses(
        "main.py", "condense", "--checkpoint", "faster_rcnn/masked", "--output", "new"
    )
