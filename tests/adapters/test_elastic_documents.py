"""Documents of the metadata index, without a server."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dostore.adapters.elastic_documents import (
    CURRENT,
    HISTORY,
    State,
    Stored,
    as_json,
    check_size,
    current_document,
    current_id,
    history_document,
    history_id,
    key_of,
    parse_document,
    parse_state,
)
from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import Corrupt, InvalidName, InvalidRequest, TooLarge
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, prove, texts

CONTENTS = st.builds(
    Content,
    content_hashes,
    st.integers(0, 1 << 45),
    st.builds(Scheme, st.integers(1, 16), st.integers(0, 15), st.sampled_from([4096, 65536])),
)
STORED = st.builds(
    Stored,
    st.builds(
        Version,
        st.just("name"),
        st.integers(1, 1 << 30),
        st.none() | CONTENTS,
        texts,
        texts,
        st.dictionaries(texts, texts, max_size=3),
    ),
    st.uuids().map(str),
)


def version(number: int = 1, **more: Any) -> Version:
    """A version to keep."""
    content = Content(ContentHash(bytes(32)), 5, Scheme())
    return Version("a", number, content, "2026-11-23T10:00:00.000Z", **more)


class RoundTripTests(SyncTestCase):
    """What is written is what is read."""

    @prove
    @given(STORED, st.lists(STORED, max_size=3), st.booleans())
    def test_documents_are_read_as_they_were_written(
        self, newest: Stored, earlier: list[Stored], small: bool
    ) -> None:
        """Both kinds, carried versions included, also where sizes have 32 bits."""
        told = json.loads(as_json(current_document(newest, earlier, small)))
        ordered = tuple(sorted(earlier, key=lambda stored: stored.version.number))
        kind, got, carried = parse_document(told)
        self.assertEqual((kind, got), (CURRENT, newest))
        self.assertEqual([s.version.number for s in carried], [s.version.number for s in ordered])
        self.assertEqual(sorted(carried, key=repr), sorted(ordered, key=repr))
        told = json.loads(as_json(history_document(newest, small)))
        self.assertEqual(parse_document(told), (HISTORY, newest, ()))
        if small:
            self.assertLess(told.get("size", 0), 1 << 31)

    @prove
    @given(STORED, st.data())
    def test_damage_is_corrupt_or_harmless(self, newest: Stored, data: st.DataObject) -> None:
        """A field that is gone, or of another type, leads to no other error."""
        told = current_document(newest, [newest])
        key = data.draw(st.sampled_from(sorted(told)))
        if data.draw(st.booleans()):
            del told[key]
        else:
            told[key] = data.draw(st.sampled_from([None, -1, 1.5, "x", [], {}, [[]], [None], True]))
        with contextlib.suppress(Corrupt):
            parse_document(told)

    def test_required_fields(self) -> None:
        """What a version cannot be without."""
        whole = current_document(Stored(version(), "t"), [])
        for key in (
            "name",
            "kind",
            "version",
            "size",
            "hash",
            "layout",
            "created",
            "meta",
            "token",
        ):
            told = {k: v for k, v in whole.items() if k != key}
            with self.assertRaises(Corrupt):
                parse_document(told)

    def test_what_is_no_document(self) -> None:
        """Any other JSON is Corrupt."""
        wrong: list[Any] = [None, 1, "x", [], {}, {"name": "a"}]
        for told in wrong:
            with self.assertRaises(Corrupt):
                parse_document(told)

    def test_state_of_another_name(self) -> None:
        """A current document is of the name that was asked for, and is current."""
        stored = Stored(version(), "t")
        state = parse_state("a", current_document(stored, []), 7, 1)
        self.assertEqual(state, State(stored, (), True, 7, 1))
        self.assertEqual(state.unsettled, ())
        carrying = parse_state("a", current_document(Stored(version(2), "u"), [stored]), 8, 1)
        self.assertEqual(carrying.unsettled, (stored,))
        for name, told in (("b", current_document(stored, [])), ("a", history_document(stored))):
            with self.assertRaises(Corrupt):
                parse_state(name, told, 7, 1)


class IdTests(SyncTestCase):
    """Ids."""

    @prove
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=2000), st.integers(1, 2**31))
    def test_ids_are_short_and_plain(self, name: str, number: int) -> None:
        """At most 56 bytes of ASCII, the two kinds never alike."""
        ids = [current_id(key_of(name)), history_id(key_of(name), number)]
        for id_ in ids:
            self.assertLessEqual(len(id_.encode("ascii")), 56)
        self.assertNotEqual(*ids)

    def test_ids_are_unambiguous(self) -> None:
        """``a_1`` version 2 is not ``a`` version ``1_2``, nor ``a.1`` that of ``a``."""
        names = ("a", "a_1", "a.1", "A", "")
        ids = {history_id(key_of(name), number) for name in names for number in (1, 2, 12)}
        self.assertEqual(len(ids), 15)

    def test_names_that_cannot_be_kept(self) -> None:
        """Half a character, or more bytes than a keyword takes."""
        for name in ("\ud800", "a" * 32767):
            with self.assertRaises(InvalidName):
                key_of(name)
        key_of("a" * 32766)


class SizeTests(SyncTestCase):
    """Versions that are too large, or no text."""

    def test_limits(self) -> None:
        """A mebibyte as JSON."""
        self.assertLess(check_size(Stored(version(), "t")), 500)
        with self.assertRaises(TooLarge):
            check_size(Stored(version(meta={"k": "v" * (1 << 20)}), "t"))
        with self.assertRaises(InvalidRequest):
            check_size(Stored(version(meta={"k": "\ud800"}), "t"))
