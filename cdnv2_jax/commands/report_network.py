"""`main.py report --checkpoint PATH`: a network without a run; and what runs' reports say of their networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdnv2_jax.checkpoint.arrays import is_checkpoint, read_description
from cdnv2_jax.checkpoint.open import open_checkpoint
from cdnv2_jax.checkpoint.usage import usage_of
from cdnv2_jax.classification.config import DataConfig
from cdnv2_jax.classification.published import NAMES, data_set_of_published, published_data_set
from cdnv2_jax.detection.checkpoint import KIND, load_detector
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.published import PUBLISHED, SOURCE
from cdnv2_jax.files import refuse_existing
from cdnv2_jax.models.condensenet import CondenseNet, Form
from cdnv2_jax.models.families import AnyNetwork
from cdnv2_jax.models.registry import model_entry
from cdnv2_jax.report.cost import Cost, count_flops, network_cost
from cdnv2_jax.report.page import Section, render_page, write_page
from cdnv2_jax.report.sections.connections import connections_section
from cdnv2_jax.report.sections.figures import figures_section
from cdnv2_jax.report.sections.published import backbone_points, classifier_points, published_section
from cdnv2_jax.torch_io.read import Weights

ERROR, PRECISION = "top-1 error, %", "mAP, %"


def report_network(
    checkpoint: Path,
    output: Path,
    *,
    model: str | None,
    weights: Weights,
    num_classes: int | None,
    overwrite: bool,
) -> None:
    """Writes a page of a network that need not come from a run: ours or official, masked, condensed or plain.

    Raises:
      UserError: no such checkpoint, a damaged one, or `output` exists.
    """
    refuse_existing(output, overwrite, file=True)
    network = read_network(checkpoint, model=model, weights=weights, num_classes=num_classes)
    size = _image_size(checkpoint, network)
    cost = count_flops(network, size)
    sections = [
        figures_section(
            {network.form_name: _figures(cost)}, [f"Cost of one image of {size} × {size} pixels, without any accuracy."]
        )
    ]
    if isinstance(network, CondenseNet):
        sections.append(connections_section(network))
    data_set = data_set_of_published(network.name, network.architecture)
    if data_set is not None:
        sections.append(_published(data_set, cost, None))
    page = render_page(f"{network.name} ({network.form_name})", f"Network in {checkpoint}", sections)
    print(write_page(output, page))


def read_network(
    path: Path, *, model: str | None = None, weights: Weights = "auto", num_classes: int | None = None
) -> AnyNetwork:
    """A classifier, or the backbone of a detector; `model`, `weights` and `num_classes` are for official files."""
    if is_checkpoint(path) and read_description(path).get("kind") == KIND:
        return load_detector(path)[0].backbone
    return open_checkpoint(path, model=model, weights=weights, num_classes=num_classes)


def classifier_published(network: AnyNetwork, data: DataConfig, error: float | None) -> list[Section]:
    """Published networks on the data that a classifier was trained on; nothing for other data.

    Args:
      error: its top-1 error in per cent; None where it was not measured.
    """
    data_set = published_data_set(data.source, network.architecture.num_classes)
    return [] if data_set is None else [_published(data_set, count_flops(network, data.image_size), error)]


def detector_published(config: DetectionConfig, precision: float | None) -> list[Section]:
    """Published backbones of such a detector on COCO; nothing for other data.

    Args:
      precision: of the detector, mAP in per cent; None where it was not measured.
    """
    published: Mapping[str, float] = PUBLISHED.get(config.model.detector, {})
    if config.data.source == "shapes" or not published:
        return []
    entry = model_entry(config.model.backbone)
    backbone = entry.architecture.override(config.model.overrides)
    cost = network_cost(backbone, Form(), entry.image_size, entry.image_size)
    points = backbone_points(published, SOURCE)
    own = (cost.flops / 1e6, precision)
    return [published_section(points, where=f"COCO ({config.model.detector})", figure_name=PRECISION, own=own)]


def _published(data_set: str, cost: Cost, error: float | None) -> Section:
    own = (cost.flops / 1e6, error)
    return published_section(classifier_points(data_set), where=NAMES[data_set], figure_name=ERROR, own=own)


def _figures(cost: Cost) -> dict[str, Any]:
    return {"flops": cost.flops, "multiply_adds": cost.multiply_adds, "params": cost.params}


def _image_size(checkpoint: Path, network: AnyNetwork) -> int:
    if is_checkpoint(checkpoint) and read_description(checkpoint).get("kind") == KIND:
        return model_entry(network.name).image_size
    return usage_of(checkpoint, network).preparation.size
