"""Known figures, and pycocotools used as its own documentation says."""

import copy
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cdnv2_jax import UserError
from cdnv2_jax.detection.evaluation import FIGURES, coco_score, detections_to_results, write_results
from cdnv2_jax.report.precision import Precision

Items = list[dict[str, Any]]


def _truth(seed: int = 0, images: int = 6) -> dict[str, Any]:
    """Objects of three classes and of all three sizes, far apart; the last image is empty."""
    random, annotations = np.random.default_rng(seed), []
    for image in range(images - 1):
        for column, side in enumerate((20, 60, 150)):
            for row in range(2):
                box = [200 * column + 5, 250 * row + 5, side + float(random.uniform(0, 10)), side + 5]
                category = [1, 3, 90][int(random.integers(3))] if image > 2 else [1, 3, 90][(image + column) % 3]
                annotations.append(
                    {
                        "id": len(annotations),  # from 0: also that one counts
                        "image_id": image,
                        "category_id": category,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
    return {
        "images": [{"id": image, "height": 500, "width": 640} for image in range(images)],
        "annotations": annotations,
        "categories": [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    }


def _perfect(truth: dict[str, Any]) -> Items:
    return [
        {key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for one in truth["annotations"]
    ]


def _figures(truth: dict[str, Any], results: Items) -> dict[str, float]:
    return coco_score(truth, results, [image["id"] for image in truth["images"]]).figures


def test_perfect_detections(capsys: pytest.CaptureFixture[str]) -> None:
    figures = _figures(_truth(), _perfect(_truth()))
    assert tuple(figures) == FIGURES
    # With one detection per image and class, only those of the first objects are found.
    assert {figures[name] for name in FIGURES if name != "AR1"} == {1.0}
    assert 0 < figures["AR1"] < 1
    assert capsys.readouterr().out == ""


def test_every_box_beside_its_object() -> None:
    """By .23 of its width: IoU .77 / 1.23 = .626, enough for 3 of the 10 thresholds."""
    results = _perfect(_truth())
    for one in results:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x + 0.23 * width, y, width, height]
    figures = _figures(_truth(), results)
    assert figures["AP"] == pytest.approx(0.3)
    assert figures["AP50"] == pytest.approx(1)
    assert figures["AP75"] == 0
    assert figures["AR100"] == pytest.approx(0.3)


def test_average_precision_by_hand() -> None:
    """Two objects; right, wrong, right: precision 1 up to a recall of .5, then 2/3; 51 and 50 of the 101 points."""
    truth = _truth(images=2)
    truth["annotations"] = [{**one, "category_id": 1} for one in truth["annotations"][:2]]
    results = _perfect(truth)
    results[1]["score"] = 0.1
    results.append({"image_id": 0, "category_id": 1, "bbox": [600, 400, 20, 20], "score": 0.5})
    score = coco_score(truth, results, [0, 1])
    for curve in score.precision.curves.values():
        assert curve == pytest.approx([1] * 51 + [2 / 3] * 50)
    figures = score.figures
    assert figures["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert figures["AR100"] == 1
    assert figures["APl"] == figures["ARl"] == -1  # there are only small ones


def test_a_detection_inside_a_crowd_is_neither_right_nor_wrong() -> None:
    truth = _truth()
    crowd = {"id": 500, "image_id": 5, "category_id": 1, "bbox": [0, 0, 300, 200], "area": 9e4, "iscrowd": 1}
    truth["annotations"].append(crowd)
    inside = {"image_id": 5, "category_id": 1, "bbox": [50, 50, 30, 30], "score": 1.0}
    assert _figures(truth, [*_perfect(_truth()), inside])["AP"] == 1
    # Not so without the crowd.
    assert _figures(_truth(), [*_perfect(_truth()), inside])["AP"] < 1


def test_no_detections() -> None:
    truth = _truth()
    assert set(_figures(truth, []).values()) == {0.0}
    small = {**truth, "annotations": [one for one in truth["annotations"] if one["area"] < 32**2]}
    figures = _figures(small, [])
    assert {name for name, value in figures.items() if value == -1} == {"APm", "APl", "ARm", "ARl"}
    assert {value for value in figures.values() if value != -1} == {0.0}
    assert set(_figures({**truth, "annotations": []}, []).values()) == {-1.0}


def test_flags_that_are_left_out() -> None:
    truth = _truth()
    for one in truth["annotations"]:
        del one["iscrowd"], one["area"]
    assert _figures(truth, _perfect(truth)) == _figures(_truth(), _perfect(truth))


def test_only_images_that_were_looked_at_count() -> None:
    """Found in images 0 and 1 alone: perfect for these, and with image 2, without a detection, a third is missed."""
    truth = _truth()
    results = [one for one in _perfect(truth) if one["image_id"] < 2]
    assert coco_score(truth, results, [0, 1]).figures["AR100"] == 1
    assert coco_score(truth, results, np.array([1, 0, 5, 5])).figures["AR100"] == 1  # 5 is empty
    assert coco_score(truth, results, [0, 1, 2]).figures["AR100"] < 0.8
    assert coco_score(truth, results, [2]).figures["AR100"] == 0


def test_nothing_is_changed() -> None:
    truth, results = _truth(), _perfect(_truth())
    before = copy.deepcopy((truth, results))
    _figures(truth, results)
    assert (truth, results) == before


def _noisy(truth: dict[str, Any], seed: int) -> Items:
    random, results = np.random.default_rng(seed), []
    for one in truth["annotations"] * 2:
        shift = random.normal(0, 0.12, 4) * (one["bbox"][2:] * 2)
        category = one["category_id"] if random.random() < 0.8 else int(random.choice([1, 3, 90]))
        box = [float(value) for value in np.maximum(one["bbox"] + shift, 1)]
        score = round(float(random.random()), 1)  # with ties
        results.append({"image_id": one["image_id"], "category_id": category, "bbox": box, "score": score})
    return results


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_as_pycocotools(seed: int, tmp_path: Path) -> None:
    truth = _truth(seed)
    for number, one in enumerate(truth["annotations"], 1):
        one["id"] = number  # pycocotools itself mistakes a match with 0 for none
    results = _noisy(truth, seed)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    write_results(tmp_path / "results.json", results)
    ground = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(ground, ground.loadRes(str(tmp_path / "results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    figures = _figures(truth, results)
    np.testing.assert_array_equal(list(figures.values()), evaluation.stats)
    assert 0.05 < figures["AP"] < 0.95
    _check_precision(coco_score(truth, results, range(6)).precision, evaluation, figures)


def _check_precision(precision: Precision, evaluation: Any, figures: dict[str, float]) -> None:
    """Against the array of the evaluation, and COCO's own means: over classes and over recall, both are the whole."""
    array = evaluation.eval["precision"][:, :, :, 0, -1]
    assert [one.name for one in precision.classes] == ["person", "car", "brush"]
    for name, key, chosen in (("0.50", "AP50", array[:1]), ("0.75", "AP75", array[5:6]), ("0.50:0.95", "AP", array)):
        curve, values = precision.curves[name], [getattr(one, key) for one in precision.classes]
        np.testing.assert_allclose(curve, [chosen[:, point].mean() for point in range(101)])
        assert np.mean(curve) == pytest.approx(figures[key]) == np.mean(values)


def test_classes_one_by_one() -> None:
    """All persons found, no cars, and there are no brushes to be found."""
    truth = _truth()
    truth["annotations"] = [one for one in truth["annotations"] if one["category_id"] != 90]
    results = [one for one in _perfect(truth) if one["category_id"] == 1]
    truth["annotations"][0] |= {"iscrowd": 1}
    precision = coco_score(truth, results, range(6)).precision
    assert [(one.name, one.AP, one.AP50, one.AP75) for one in precision.classes] == [
        ("person", 1.0, 1.0, 1.0), ("car", 0.0, 0.0, 0.0), ("brush", -1.0, -1.0, -1.0)
    ]  # fmt: skip
    counts = Counter(one["category_id"] for one in truth["annotations"] if not one["iscrowd"])
    assert [one.objects for one in precision.classes] == [counts[1], counts[3], 0]
    # The mean over the classes with objects.
    assert {value for curve in precision.curves.values() for value in curve} == {0.5}
    assert coco_score(truth, [], [5]).precision.curves == {}  # an image without objects


@pytest.mark.parametrize(("change", "complaint"), [({"image_id": 77}, "image 77"), ({"category_id": 0}, "category 0")])
def test_results_of_something_else(change: dict[str, int], complaint: str) -> None:
    results = _perfect(_truth())
    results[3] |= change
    with pytest.raises(UserError, match=f"results refer to {complaint}, which the annotations lack"):
        _figures(_truth(), results)
    with pytest.raises(UserError, match="results refer to image 99"):
        coco_score(_truth(), [], [99])


def test_without_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(UserError, match=r"pip install 'cdnv2-jax\[detection\]'"):
        _figures(_truth(), [])


def test_detections_become_results() -> None:
    """In the ids of the annotations; those of a class that the annotations lack are left out."""
    boxes = [[[10, 20, 30, 50], [0, 0, 4, 4], [5, 5, 6, 6]], [[8, 8, 16, 24], [1, 1, 2, 2], [1, 1, 2, 2]]]
    results = detections_to_results(
        np.array(boxes, np.float32),
        np.array([[0.5, 0.25, 0.125], [0.75, 0, 0]], np.float32),
        np.array([[2, 0, 3], [1, 0, 0]], np.int32),
        np.array([[True, True, True], [True, False, False]]),
        np.array([[2, 4], [0.5, 1]], np.float32),
        [42, "seven"],
        [1, 3, "brush", None],
    )
    assert results == [
        {"image_id": 42, "category_id": "brush", "bbox": [5, 5, 10, 7.5], "score": 0.5},
        {"image_id": 42, "category_id": 1, "bbox": [0, 0, 2, 1], "score": 0.25},
        {"image_id": "seven", "category_id": 3, "bbox": [16, 8, 16, 16], "score": 0.75},
    ]
    json.dumps(results)
    empty = np.zeros((1, 0))
    none = detections_to_results(np.zeros((1, 0, 4)), empty, empty.astype(int), empty > 0, np.ones((1, 2)), [5], [1])  # pyright: ignore[reportArgumentType]
    assert none == []


def test_results_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, _perfect(_truth())[:1])
    before = path.read_text()
    assert json.loads(before) == _perfect(_truth())[:1]
    with pytest.raises(UserError, match=r"results\.json cannot be written"):
        write_results(path, [{"score": float("nan")}])
    assert path.read_text() == before
