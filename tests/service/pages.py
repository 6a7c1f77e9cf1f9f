"""A report's page, taken apart for tests."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Tags, ids, rows and text of a page; an unbalanced tag is an assertion that fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.values: list[str] = []
        self.text: list[str] = []
        self.labels: list[str] = []
        self.rows: list[list[str]] = []
        self.classes: list[str] = []
        self.feed(text)
        self.close()

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.values += [value or "" for value in found.values()]
        self.ids += [found["id"] or ""] if "id" in found else []
        self.classes += (found.get("class") or "").split()
        if tag == "svg":
            assert found["role"] == "img"
            self.labels.append(found["aria-label"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
