"""A run's report: one HTML file that needs nothing beside it."""

import base64
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .2rem 1.5rem .2rem 0;
         border-bottom: 1px solid #8884; }
th { font-weight: 600; }
img { max-width: 100%; background: white; border-radius: 4px; }
pre { overflow-x: auto; }
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


def write(
    path: Path, title: str, *, summary: Mapping[str, Any], sections: Sequence[Section]
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: of the HTML file.
        title: heading of the page.
        summary: names and values for the table at its top.
        sections: what follows.
    """
    rows = "".join(
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th>"
        f"<td>{html.escape(_text(value))}</td></tr>\n"
        for name, value in summary.items()
    )
    parts = "".join(_section(section) for section in sections)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n<table>\n{rows}</table>\n{parts}"
        "</body>\n</html>\n"
    )
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(page, encoding="utf-8")
    os.replace(fresh, path)


def _section(section: Section) -> str:
    if isinstance(section.content, Path):
        data = base64.b64encode(section.content.read_bytes()).decode()
        alternative = html.escape(f"{section.title}. {section.text}", quote=True)
        content = f'<img alt="{alternative}" src="data:image/png;base64,{data}">'
    else:
        content = f"<pre>{html.escape(section.content)}</pre>"
    text = f"<p>{html.escape(section.text)}</p>" if section.text else ""
    return f"<section><h2>{html.escape(section.title)}</h2>{text}{content}</section>\n"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
