"""Make the README's relative links absolute, as the package index resolves none; all else is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import find_namespace_packages, setup

RELATIVE_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([\w./-]+(?:#[\w-]+)?)\)")

OUTSIDE = {"cdnv2_jax.configs": "configs", "cdnv2_jax.pretrained_weights": "weights"}
"""Package in the installed project → its folder in a checkout."""


def absolute_links(text: str, repository: str, version: str) -> str:
    """Markdown whose links and images lead to the files of the tag `v<version>`."""

    def replace(link: re.Match[str]) -> str:
        mark, label, target = link.groups()
        return f"{mark}[{label}]({repository}/{'raw' if mark else 'blob'}/v{version}/{target})"

    return RELATIVE_LINK.sub(replace, text)


if __name__ == "__main__":
    root = Path(__file__).parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (root / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=absolute_links(readme, project["urls"]["Repository"], project["version"]),
        long_description_content_type="text/markdown",
        packages=[*find_namespace_packages(include=["cdnv2_jax*"]), *OUTSIDE],
        package_dir=OUTSIDE,
    )
