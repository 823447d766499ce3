"""What stands in the project's Markdown pages: blocks of code, commands, links, headings."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
"""With code and commands."""
ALL_PAGES = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "tests" / "golden" / "README.md"]
"""With links."""

PROGRAMS = ("python", "make", "pip", "cdnv2", "cdnv2-convert")
ENDS = {"&&", "||", ";", "&", "|", ">", "do", "done", "break"}


def name_of(page: Path) -> str:
    """Relative to the project."""
    return page.relative_to(ROOT).as_posix()


@cache
def tokens(page: Path) -> list[Token]:
    """The page parsed as CommonMark with tables, as GitHub shows it."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code: fenced ones have a language, indented ones "" and the first line of the block."""

    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All blocks of code."""
    return [
        Block(page, token.map[0] + 1 if token.map else 0, token.info.strip(), token.content)
        for token in tokens(page)
        if token.type in ("fence", "code_block")
    ]


def python_blocks(page: Path) -> list[Block]:
    """Those in Python."""
    return [block for block in blocks(page) if block.language == "python"]


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of a page: program and arguments, as a shell would hand them over.

    Attributes:
      abbreviated: written with "…" or [optional parts], so that required flags may be missing.
    """

    page: str
    line: int
    words: tuple[str, ...]
    abbreviated: bool

    def __str__(self) -> str:
        return " ".join(self.words)


def commands(page: Path) -> list[Command]:
    """All commands of `PROGRAMS` in blocks of shell code and in `code` in the text."""
    found = []
    variables = variables_of(page)
    for block in blocks(page):
        if block.language in ("", "bash", "sh"):
            for line in block.text.replace("\\\n", " ").splitlines():
                found += [_command(page, block.line, words, variables) for words in programs_in(line)]
    for token in tokens(page):
        for child in token.children or []:
            if child.type == "code_inline" and child.content.split(" ")[0] in PROGRAMS and " " in child.content:
                line = token.map[0] + 1 if token.map else 0
                found += [_command(page, line, words, variables) for words in programs_in(child.content)]
    return found


def programs_in(line: str) -> Iterator[list[str]]:
    """The commands in a line of shell, those inside of quotes too: [program, argument, …]."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quotation of several lines, of which this is one
        return
    start = None
    for position, word in enumerate([*words, ";"]):
        if start is None and word.removeprefix(".venv/bin/") in PROGRAMS:
            start = position
        elif start is not None and (word in ENDS or word.endswith(";")):
            yield [words[start].removeprefix(".venv/bin/"), *words[start + 1 : position]]
            start = None
        elif start is None and " " in word:
            yield from programs_in(word)


def variables_of(page: Path) -> dict[str, str]:
    """Shell variables that a page sets, by NAME="value" or, to the first value, by a `for` loop."""
    text = page.read_text(encoding="utf-8")
    assigned = dict(re.findall(r'^ +([A-Z]+)="([^"]*)"$', text, re.MULTILINE))
    return assigned | dict(re.findall(r"\bfor (\w+) in (\w+)", text))


def _command(page: Path, line: int, words: list[str], variables: dict[str, str]) -> Command:
    expanded: list[str] = []
    for word in words:
        filled = re.sub(r"\$(\w+)", lambda match: variables.get(match[1], "1"), word)
        expanded += filled.split() if word.startswith("$") else [filled]
    abbreviated = any("…" in word or word.startswith("[") for word in expanded)
    plain = [_without_brackets(word) for word in expanded]
    return Command(name_of(page), line, tuple(word for word in plain if word != "…"), abbreviated)


def _without_brackets(word: str) -> str:
    """What stands between the brackets that mark something as optional; `.[dev]` keeps its own."""
    word = word.removeprefix("[")
    return word if "[" in word else word.removesuffix("]")


def links(page: Path) -> list[str]:
    """Targets of links and images."""
    found = []
    for token in tokens(page):
        for child in token.children or []:
            target = child.attrGet({"link_open": "href", "image": "src"}.get(child.type, ""))
            if target:
                found.append(str(target))
    return found


def anchors(page: Path) -> set[str]:
    """What `#…` may be on a page: its headings, as GitHub makes anchors of them."""
    found: set[str] = set()
    for opening, inline in zip(tokens(page), tokens(page)[1:], strict=False):
        if opening.type == "heading_open":
            words = "".join(child.content for child in inline.children or [] if child.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            number = sum(other == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", other) is not None for other in found)
            found.add(f"{slug}-{number}" if number else slug)
    return found
