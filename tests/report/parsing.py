"""A page as its elements and their texts."""

from html.parser import HTMLParser

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Elements of a page in order: `(tag, attributes, text)`, with the text of what is inside."""

    def __init__(self, source):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        element = [tag, dict(attrs), ""]
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop()[0] == tag, tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def find(self, tag=None, **attributes):
        """Elements of a tag whose attributes hold the given words; `kind` stands for `class`, `_` for `-`."""
        wanted = {"class" if k == "kind" else k.replace("_", "-"): v for k, v in attributes.items()}
        return [
            (name, given, text)
            for name, given, text in self.elements
            if tag in (None, name) and all(value in (given.get(key) or "").split(" ") for key, value in wanted.items())
        ]

    def texts(self, tag=None, **attributes):
        return [text for _, _, text in self.find(tag, **attributes)]
