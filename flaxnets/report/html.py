"""A run's report: one HTML file that needs nothing beside it."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxnets import files

_STYLE = """
:root { color-scheme: light dark; --text: #1c1c1c; --page: #ffffff; --line: #dddddd;
        --quiet: #5c5c5c; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --page: #16181b; --line: #3a3d42; --quiet: #a8a8a8; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--text);
       background: var(--page); max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
p { margin: 0 0 .8rem; color: var(--quiet); max-width: 44rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
     border: 1px solid var(--line); border-radius: 6px; overflow: hidden;
     margin: 1.2rem 0; }
dl div { border: solid var(--line); border-width: 0 1px 1px 0;
         margin: 0 -1px -1px 0; padding: .5rem .8rem; }
dt { color: var(--quiet); font-size: .85rem; }
dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; height: auto; box-sizing: border-box;
      background: white; border: 1px solid var(--line); border-radius: 6px;
      padding: .6rem; }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px;
      padding: .8rem; font-size: .8rem; line-height: 1.35; }
@media print { section { break-inside: avoid; } }
"""


class Section(NamedTuple):
    """A part of a report.

    Attributes:
        title: its heading.
        text: a sentence or two.
        content: the path of a PNG file, or preformatted text.
    """

    title: str
    text: str
    content: Path | str


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text of a table, its columns right-aligned."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (heads, *rows)
    )


def write(
    path: Path, title: str, *, summary: Mapping[str, Any], sections: Sequence[Section]
) -> None:
    """Writes the page, whole or not at all.

    It has no scripts and loads nothing; it follows the reader's choice of a light or
    dark page, and reads on a phone.

    Args:
        path: of the HTML file.
        title: heading of the page.
        summary: names and values shown at its top.
        sections: what follows.

    Raises:
        RunFolderError: the file cannot be written.
    """
    facts = "".join(
        f"<div><dt>{html.escape(name.replace('_', ' '))}</dt>"
        f"<dd>{html.escape(_text(value))}</dd></div>\n"
        for name, value in summary.items()
    )
    parts = "".join(_section(section) for section in sections)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{html.escape(title)}</h1>\n<dl>\n{facts}</dl>\n{parts}"
        "</main>\n</body>\n</html>\n"
    )
    with files.replacing(path) as fresh:
        fresh.write_text(page, encoding="utf-8")


def _section(section: Section) -> str:
    if isinstance(section.content, Path):
        data = base64.b64encode(section.content.read_bytes()).decode()
        alternative = html.escape(f"{section.title}. {section.text}")
        content = f'<img alt="{alternative}" src="data:image/png;base64,{data}">'
    else:
        content = f"<pre>{html.escape(section.content)}</pre>"
    text = f"<p>{html.escape(section.text)}</p>" if section.text else ""
    heading = f"<h2>{html.escape(section.title)}</h2>"
    return f"<section>\n{heading}\n{text}{content}\n</section>\n"


def _text(value: Any) -> str:
    """A value for people: thousands separated, four significant decimals."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
