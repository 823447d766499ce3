"""Networks: the base class, the families, and every model by name."""

from cdnv2_jax.networks import zoo as zoo  # registers the built-in families and models
