"""The config of a run as a table."""

from collections.abc import Mapping
from typing import Any

from cdnv2_jax.report.page import Section, Table


def config_section(fields: Mapping[str, Any]) -> Section:
    """All fields by their dotted names, as the command line takes them."""
    rows = [(f"config.{name}", str(value)) for name, value in fields.items()]
    return Section("config", "Config", tables=[Table("As it was used", ("field", "value"), rows)])
