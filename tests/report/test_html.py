"""The report is one file that shows text as text."""

import base64
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flaxnets import errors
from flaxnets.report import html

NASTY = "<script>alert('1')</script> & \"quotes\""


class Reader(HTMLParser):
    """Collects the tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def page(tmp_path: Path) -> str:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"the bytes of a picture")
    html.write(
        tmp_path / "report.html",
        NASTY,
        summary={
            NASTY: NASTY,
            "batch_size": 1234567,
            "test_loss": 0.01962,
            "examples_per_second": 123456.7,
            "resumed": True,
        },
        sections=[
            html.Section(NASTY, NASTY, picture),
            html.Section("Table", "", f"a  b\n{NASTY}"),
        ],
    )
    assert [path.name for path in tmp_path.glob("*report*")] == ["report.html"]
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_all_text_is_escaped(page: str) -> None:
    reader = Reader(page)
    tags = [tag for tag, _ in reader.tags]
    assert "script" not in tags
    # Title, heading, name and value in the summary, section's title and text, table.
    assert "".join(reader.text).count(NASTY) == 7


def test_pictures_are_inside_and_described(page: str) -> None:
    ((_, attributes),) = [tag for tag in Reader(page).tags if tag[0] == "img"]
    head, data = (attributes["src"] or "").split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == b"the bytes of a picture"
    assert attributes["alt"] == f"{NASTY}. {NASTY}"


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    assert "://" not in page and "url(" not in page and "@import" not in page
    assert not {"link", "iframe", "object"} & {tag for tag, _ in Reader(page).tags}


def test_summary_is_for_people(page: str) -> None:
    text = Reader(page).text
    for shown in ("batch size", "1,234,567", "0.0196", "123,457", "yes"):
        assert shown in text


def test_suits_phones_and_dark_pages(page: str) -> None:
    assert '<meta name="viewport" content="width=device-width' in page
    assert "prefers-color-scheme: dark" in page


def test_a_failed_write_leaves_the_old_page(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    html.write(path, "old", summary={}, sections=[])
    with pytest.raises(FileNotFoundError, match="absent.png"):
        html.write(
            path,
            "new",
            summary={},
            sections=[html.Section("a", "", tmp_path / "absent.png")],
        )
    assert "<h1>old</h1>" in path.read_text()


FULL = """
import resource, sys
from pathlib import Path
from flaxnets import errors
from flaxnets.report import html
path = Path(sys.argv[1])
html.write(path, "old", summary={}, sections=[])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
try:
    html.write(path, "new", summary={}, sections=[])
except errors.RunFolderError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_the_old_page_stays(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{path}: cannot be written (File too large); " in done.stdout
    assert "<h1>old</h1>" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "report.html"
    with pytest.raises(errors.RunFolderError, match=f"{path}: cannot be written"):
        html.write(path, "new", summary={}, sections=[])


def test_a_tables_columns_are_right_aligned() -> None:
    text = html.table(("mode", "accuracy"), [("frozen", "95.7%"), ("all", "9.1%")])
    assert text.splitlines() == [
        "  mode  accuracy",
        "frozen     95.7%",
        "   all      9.1%",
    ]
