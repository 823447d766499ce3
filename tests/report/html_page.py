"""What a page is made of, by the standard library's parser, and what is wrong with it."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADS = {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}
"""Attributes by which a browser fetches something or goes somewhere."""


class HtmlPage(HTMLParser):
    """A parsed page.

    Attributes:
      faults: what must not be in any page: unclosed or crossed tags, ids twice, images without alternative text, links
        to nowhere, anything from elsewhere, code.
      text: all that is not inside of a tag. tags: names and attributes in order.
    """

    def __init__(self, html: str):
        super().__init__()
        self.faults: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self._ids: set[str] = set()
        self._used: set[str] = set()
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._open]
        self.faults += [f"#{name} is nowhere" for name in sorted(self._used - self._ids)]
        if not html.startswith("<!DOCTYPE html>"):
            self.faults.append("no doctype")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(tag, dict(attrs))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(tag, dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] == "style":
            self.faults += [f"style loads {word!r}" for word in ("@import", "url(") if word in data]

    def _look(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tags.append((tag, attributes))
        if tag in ("script", "iframe", "object", "embed", "base", "form"):
            self.faults.append(f"<{tag}>")
        if tag == "img" and not attributes.get("alt"):
            self.faults.append("an image without alternative text")
        if attributes.get("role") == "img" and not attributes.get("aria-label"):
            self.faults.append("a drawing without a label")
        for name, value in attributes.items():
            self._look_at(name, value or "")

    def _look_at(self, name: str, value: str) -> None:
        if name == "id":
            self.faults += [f"id {value} twice"] if value in self._ids else []
            self._ids.add(value)
        elif name == "aria-labelledby":
            self._used.add(value)
        elif name.startswith("on"):
            self.faults.append(f"code in {name}")
        elif name in LOADS and value.startswith("#"):
            self._used.add(value[1:])
        elif name in LOADS and not value.startswith("data:"):
            self.faults.append(f"{name} leads to {value!r}")
        elif "url(#" in value:
            self._used.add(value.split("url(#")[1].split(")")[0])
        elif "url(" in value:
            self.faults.append(f"{name} loads {value!r}")
