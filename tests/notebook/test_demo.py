"""The page that `make demo` writes."""

import re
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

from tests.kernels import ROOT


def test_every_link_of_the_exported_page_leads_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import demo  # type: ignore[import-not-found]

    notebook = nbformat.read(ROOT / "notebooks" / demo.NAME, as_version=4)
    demo.name_linked_files(notebook)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    headings = set(re.findall(r'<h\d id="([^"]+)"', page))
    links = re.findall(r'<a [^>]*href="([^"]+)"', page)
    assert links
    assert [link for link in links if link.removeprefix("#") not in headings] == []
    named = re.findall(r"<code>(notebooks/[^<]+)</code>", page)
    assert named
    assert [path for path in named if not Path(ROOT, path).exists()] == []
