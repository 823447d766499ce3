"""Networks: the base class, the families, and every model by name."""
