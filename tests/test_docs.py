"""The documents are well-formed, and what they refer to is there."""

from __future__ import annotations

import io
import re
from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree

from tests.support.cases import SyncTestCase

ROOT = Path(__file__).parent.parent


def documents() -> list[Path]:
    """Every document of the project."""
    return [ROOT / "README.rst", ROOT / "CHANGELOG.rst", *sorted((ROOT / "docs").rglob("*.rst"))]


def parse(path: Path, warnings: io.StringIO) -> nodes.document:
    """A document's tree; what docutils has to say of it goes to ``warnings``."""
    settings = {
        "warning_stream": warnings,
        "report_level": 2,
        "halt_level": 5,
        # Colours would need Pygments, and there is nobody here to see them.
        "syntax_highlight": "none",
    }
    return publish_doctree(
        path.read_text(), source_path=str(path.relative_to(ROOT)), settings_overrides=settings
    )


class DocumentTests(SyncTestCase):
    """What ``make docs`` checks."""

    def test_well_formed(self) -> None:
        """docutils has no warning for any document."""
        warnings = io.StringIO()
        for path in documents():
            parse(path, warnings)
        self.assertEqual(warnings.getvalue(), "")

    def test_links_lead_somewhere(self) -> None:
        """A link to a file of the project names one that is there."""
        broken = []
        for path in documents():
            for link in parse(path, io.StringIO()).findall(nodes.reference):
                target = link.get("refuri", "").partition("#")[0]
                if re.match("[a-z]+:", target) or (path.parent / target).exists():
                    continue
                broken.append(f"{path.relative_to(ROOT)}: {target}")
        self.assertEqual(broken, [])

    def test_named_files_are_there(self) -> None:
        """A file or folder of the project that a text names in literals is there."""
        missing = []
        literal = re.compile(r"``((?:dostore|docs|tests|benchmarks|requirements)/[\w./-]+)``")
        for path in documents():
            for name in literal.findall(path.read_text()):
                if not (ROOT / name).exists():
                    missing.append(f"{path.relative_to(ROOT)}: {name}")
        self.assertEqual(missing, [])

    def test_every_document_is_in_the_index(self) -> None:
        """docs/index.rst leads to each page."""
        index = (ROOT / "docs" / "index.rst").read_text()
        pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.rst")}
        self.assertEqual([page for page in pages - {"index.rst"} if page not in index], [])
