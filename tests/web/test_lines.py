"""The lines of listings, against the JSON of a library."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.service.listing import CommonPrefix
from dostore.web.api.lines import line
from tests.support.cases import SyncTestCase
from tests.support.properties import prove

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_contents = st.builds(
    Content,
    st.builds(ContentHash, st.binary(min_size=32, max_size=32)),
    st.integers(0, 1 << 50),
    st.just(Scheme()),
)
_versions = st.builds(
    Version,
    _texts,
    st.integers(1, 1 << 53),
    st.none() | _contents,
    _texts,
    _texts,
    st.dictionaries(_texts, _texts, max_size=3),
)


def _members(version: Version) -> dict[str, object]:
    told: dict[str, object] = {
        "Name": version.name,
        "Version": version.number,
        "Size": version.size,
        "Hash": str(version.content.hash) if version.content else "",
        "Created": version.created,
        "ContentType": version.content_type,
        "Meta": dict(version.meta),
    }
    return told | {"Deleted": True} if version.deleted else told


def _json(members: dict[str, object]) -> bytes:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class LineTests(SyncTestCase):
    """Any entry, whatever characters it has."""

    @prove
    @given(_versions)
    def test_versions(self, version: Version) -> None:
        """A version's line is what the library makes of it, byte by byte."""
        self.assertEqual(line(version), _json(_members(version)))

    @prove
    @given(_texts)
    def test_prefixes(self, prefix: str) -> None:
        """So is a common prefix's."""
        self.assertEqual(line(CommonPrefix(prefix)), _json({"Prefix": prefix}))
