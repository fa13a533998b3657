"""What the pages point to is there, and their prose can be read beside the code."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_LINE = 132
LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS = ("benchmarks", "cli", "docs", "k8s", "libs", "ops", "services", "tests")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`")
NOT_IN_GIT = ("benchmarks/results",)
"""Made by a run."""


def pages() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(name for name in listed.stdout.split() if (ROOT / name).exists())


def headings(page: Path) -> set[str]:
    """As GitHub names them in addresses."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(page: Path, text: str) -> Iterator[str]:
    for link in LINK.findall(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (heading and heading not in headings(target)):
            yield link
    for path in PATH.findall(text):
        if not (ROOT / path).exists() and not path.startswith(NOT_IN_GIT):
            yield path


@pytest.mark.parametrize("name", pages())
def test_every_link_and_path_of_a_page_leads_somewhere(name: str) -> None:
    page = ROOT / name
    assert list(dead_links(page, page.read_text())) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "[a](docs/nowhere.md) [b](README.md#no-such-heading) [c](README.md#watch-it) `ops/nowhere.yml` `ops/grafana`"
    assert list(dead_links(ROOT / "README.md", text)) == [
        "docs/nowhere.md",
        "README.md#no-such-heading",
        "ops/nowhere.yml",
    ]


@pytest.mark.parametrize("name", pages())
def test_lines_of_prose_are_short(name: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "    ", "!"))]
    assert [line for line in lines if len(line) > LONGEST_LINE] == []
