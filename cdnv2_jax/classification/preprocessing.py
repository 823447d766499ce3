"""Preprocessing of evaluation images, and the settings that give it."""

from typing import Any

from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import model_entry

FIELDS = {
    "size": "image_size",
    "resize": "eval_crop",
    "shorter_side": "resize",
    "interpolation": "interpolation",
    "mean": "mean",
    "std": "std",
}
"""Field of `ImagePreparation` → field of `config.data`."""


def preparation_of(config: ClassificationConfig) -> ImagePreparation:
    """Return the preprocessing for evaluation and for the trained network; UserError if the settings are unusable."""
    values = data_fields_in_effect(config)
    try:
        return ImagePreparation(**{name: values[field] for name, field in FIELDS.items()})
    except ValueError as error:
        raise UserError(f"config.data cannot be used: {error}") from error


def data_fields_in_effect(config: ClassificationConfig) -> dict[str, Any]:
    """Return the fields of `config.data` that determine the preprocessing, with "auto" and "random" resolved."""
    values = {field: getattr(config.data, field) for field in FIELDS.values()}
    if values["eval_crop"] == "auto":
        values["eval_crop"] = "centre" if config.data.crop == "random_resized" else "whole"
    if values["interpolation"] == "random":
        values["interpolation"] = model_entry(config.model.name).interpolation
    return values


def data_fields(preparation: ImagePreparation) -> dict[str, Any]:
    """Return the fields of `config.data` that give this preprocessing."""
    return {field: getattr(preparation, name) for name, field in FIELDS.items()}
