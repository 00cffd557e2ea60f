"""The frame of our HTML pages: one self-contained file, without network and without script."""

import html

from nexus.drawing.style import CSS
from nexus.figures import quantity


def document(title: str, body: str) -> str:
    """A whole page around the HTML of its body."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, explain: str, body: str) -> str:
    """A part of a page: heading, a few sentences of text, and HTML."""
    opening = f'<p class="explain">{escaped(explain.strip())}</p>\n' if explain else ""
    return f"<section>\n<h2>{escaped(title)}</h2>\n{opening}{body}\n</section>\n"


def escaped(text: str) -> str:
    """Text as it stands in HTML, between tags and in quotes."""
    return html.escape(text, quote=True)


def percent(value: float) -> str:
    """A share in 0..1 as people read it, with a narrow space before the sign."""
    return quantity(value, "%", gap="\u202f")
