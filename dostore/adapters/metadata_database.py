"""The SQLite database of versions: its schema, its queries, and what damage looks like."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import quote

from attrs import frozen

from dostore.adapters.metadata_rows import DamagedRow, require_check, row_of, version_of
from dostore.core.logrecord import MAX_NUMBER
from dostore.core.model import Version
from dostore.core.names import ContentHash, successor
from dostore.errors import ConfigError, MetadataUnavailable

T = TypeVar("T")

#: The version of the schema, in the database's ``user_version``.
SCHEMA = 1

_TABLES = f"""
-- Every version. A tombstone has no hash. The check is over the other columns.
CREATE TABLE versions (
    name TEXT NOT NULL,
    number INTEGER NOT NULL,
    hash BLOB,
    size INTEGER,
    k INTEGER,
    m INTEGER,
    block_size INTEGER,
    created TEXT NOT NULL,
    content_type TEXT NOT NULL,
    meta TEXT,
    "check" INTEGER NOT NULL,
    PRIMARY KEY (name, number)
) WITHOUT ROWID;
CREATE INDEX versions_by_hash ON versions (hash) WHERE hash IS NOT NULL;

-- The newest version of each name that is not deleted: what a listing walks, with no tombstone
-- to step over.
CREATE TABLE current (
    name TEXT PRIMARY KEY,
    number INTEGER NOT NULL
) WITHOUT ROWID;

-- One row: how far the database is. Records of terms up to void_term with number void_seq or more
-- were given up without a trace in the log. There are as many versions as `versions` tells, and the
-- low bits of their checks add up to `tally`: else some of the pages are of another time.
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    store_id TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    term INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    void_term INTEGER NOT NULL,
    void_seq INTEGER NOT NULL,
    stopped_with TEXT,
    versions INTEGER NOT NULL,
    tally INTEGER NOT NULL
);
PRAGMA user_version = {SCHEMA};
"""

_ROW = (
    "v.name, v.number, v.hash, v.size, v.k, v.m, v.block_size, v.created, v.content_type, v.meta,"
    ' v."check"'
)

_COLUMNS = f"({', '.join(['?'] * 11)})"
_INTO_VERSIONS = f"INTO versions VALUES {_COLUMNS}"

#: At most so many rows are written, or names looked up, by one statement. A statement gives the
#: interpreter to other threads and has to get it back, which costs as much as a row.
_ROWS = 64
_PORTION = 16

#: The bits of a version's check that go into the tally: so the sum of any number of them fits.
_TALLY_BITS = 0xFFFFFF

_TALLY = f'SELECT count(*), coalesce(sum("check" & {_TALLY_BITS}), 0) FROM versions'

#: The newest versions that are no tombstones, those of them that are in current, and all that are.
_CURRENT = """
SELECT count(*), count(c.number), (SELECT count(*) FROM current)
FROM (SELECT name, max(number) AS number, hash FROM versions GROUP BY name) v
LEFT JOIN current c ON c.name = v.name AND c.number = v.number
WHERE v.hash IS NOT NULL
"""

#: How many hashes one query asks for.
_HASHES = 500

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error tells that the database itself is damaged, so that it must be rebuilt."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # The module itself finds text that is not UTF-8, and has only words for it.
    undecodable = isinstance(error, sqlite3.OperationalError) and "decode to UTF-8" in str(error)
    return isinstance(error, DamagedRow) or code in _DAMAGED or undecodable


def unavailable(error: sqlite3.Error | OSError) -> MetadataUnavailable:
    """The error of the tree that a database's error becomes at the border."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    hint = "Free space on its drive." if name == "SQLITE_FULL" else "See the server's log."
    return MetadataUnavailable(f"The metadata database cannot be used now ({name}). {hint}")


@frozen(slots=True)
class State:
    """How far a database is.

    :ivar created_ms: when the store of versions began, in milliseconds since the epoch.
    :ivar term: the term of the last record in it.
    :ivar seq: the number of that record, 0 for none.
    :ivar void_term: with ``void_seq``: records of terms up to this one with that number or a higher
        one never count; 0 for none.
    :ivar stopped_with: JSON left by a clean stop, None while in use.
    """

    store_id: str
    created_ms: int
    term: int
    seq: int
    void_term: int
    void_seq: int
    stopped_with: str | None


class Database:
    """One connection. Blocks; used by one thread at a time.

    Methods raise sqlite3.Error.
    """

    def __init__(self, path: str, *, cache_kib: int, writes: bool) -> None:
        self.path = path
        self.connection = sqlite3.connect(
            f"file:{quote(path)}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=30.0,
        )
        for pragma in (
            f"cache_size = -{cache_kib}",
            "temp_store = MEMORY",
            "synchronous = NORMAL",
            "journal_size_limit = 67108864",
            # A fallback: checkpoints are made in the background.
            "wal_autocheckpoint = 16384",
            f"query_only = {0 if writes else 1}",
        ):
            self.connection.execute(f"PRAGMA {pragma}")

    @classmethod
    def create(cls, path: str, store_id: str, created_ms: int) -> None:
        """Make an empty database at ``path``, where there is none."""
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o640))
        database = cls(path, cache_kib=1024, writes=True)
        try:
            database.connection.executescript(f"BEGIN; {_TABLES}")
            database.connection.execute(
                "INSERT INTO state VALUES (1, ?, ?, 0, 0, 0, 0, NULL, 0, 0)", (store_id, created_ms)
            )
            database.connection.execute("COMMIT")
        finally:
            database.close()

    def close(self) -> None:
        """Let the connection go."""
        self.connection.close()

    def use_wal(self) -> None:
        """Have readers not wait for the writer, nor the writer for them."""
        (mode,) = self.connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"the journal mode is {mode}, not wal")

    def state(self) -> State:
        """How far it is.

        :raises ConfigError: a newer release made it.
        """
        (schema,) = self.connection.execute("PRAGMA user_version").fetchone()
        if schema < SCHEMA:
            raise DamagedRow("the database is empty")
        if schema > SCHEMA:
            raise ConfigError(
                f"The metadata database has schema {schema}; this release reads up to {SCHEMA}. "
                "Start the newer release that made it."
            )
        row = self.connection.execute(
            "SELECT store_id, created_ms, term, seq, void_term, void_seq, stopped_with FROM state"
        ).fetchone()
        if row is None:
            raise DamagedRow("the database has no state")
        return State(*row)

    def quick_check(self) -> None:
        """Walk the structure of the whole database.

        :raises DamagedRow: it is damaged.
        """
        (answer,) = self.connection.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise DamagedRow(answer)

    def check_tally(self) -> None:
        """Count all versions, and compare what is current with them.

        A file that was put in the place of the database takes the write-ahead log beside it for its
        own: every page is sound then, and versions are missing all the same.

        :raises DamagedRow: versions are missing.
        """
        noted = self.connection.execute("SELECT versions, tally FROM state").fetchone()
        if self.connection.execute(_TALLY).fetchone() != noted:
            raise DamagedRow("versions are missing from it")
        if len(set(self.connection.execute(_CURRENT).fetchone())) != 1:
            raise DamagedRow("its list of current versions is not theirs")

    def check_rows(self, look_up: Callable[[], None]) -> None:
        """Read every version.

        :param look_up: called now and then; may raise to end it.
        :raises DamagedRow: one does not match its check.
        """
        rows = self.connection.execute(f"SELECT {_ROW} FROM versions v")
        while some := rows.fetchmany(100):
            look_up()
            for row in some:
                require_check(row)

    def size_bytes(self) -> int:
        """How large it is, without a look at the file."""
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        (page,) = self.connection.execute("PRAGMA page_size").fetchone()
        return int(pages) * int(page)

    # Writing

    def begin(self) -> None:
        """Start a transaction that writes."""
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """End the transaction."""
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """Give the transaction up, if there is one."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def insert(self, versions: Sequence[Version], applied: tuple[int, int] | None = None) -> None:
        """Add versions, each the newest of its name. One that is there already is replaced.

        :param applied: see :meth:`set_applied`.
        """
        execute = self.connection.execute
        rows = [row_of(version) for version in versions]
        added, tally = len(rows), sum(row[-1] & _TALLY_BITS for row in rows)
        for some in _portions(rows):
            values = list(chain.from_iterable(some))
            try:
                execute(f"INSERT {_INTO_VERSIONS}{f', {_COLUMNS}' * (len(some) - 1)}", values)
            except sqlite3.IntegrityError:
                replaced = self._replace(some)
                added -= len(replaced)
                tally -= sum(replaced)
        newest = {version.name: version for version in versions}
        stored = [version for version in newest.values() if version.content is not None]
        for here in _portions(stored):
            execute(
                f"INSERT INTO current VALUES (?, ?){', (?, ?)' * (len(here) - 1)}"
                " ON CONFLICT (name) DO UPDATE SET number = excluded.number",
                [value for version in here for value in (version.name, version.number)],
            )
        if len(stored) < len(newest):
            self.connection.executemany(
                "DELETE FROM current WHERE name = ?",
                [(name,) for name, version in newest.items() if version.content is None],
            )
        values = [added, tally, *(applied or ())]
        noted = ", term = ?, seq = ?" if applied else ""
        execute(f"UPDATE state SET versions = versions + ?, tally = tally + ?{noted}", values)

    def _replace(self, rows: Sequence[tuple[Any, ...]]) -> list[int]:
        """Add rows one by one; what those that were there already added to the tally."""
        execute = self.connection.execute
        replaced: list[int] = []
        for row in rows:
            try:
                execute(f"INSERT {_INTO_VERSIONS}", row)
            except sqlite3.IntegrityError:
                (check,) = execute(
                    'SELECT "check" FROM versions WHERE name = ? AND number = ?', row[:2]
                ).fetchone()
                replaced.append(check & _TALLY_BITS)
                execute(f"REPLACE {_INTO_VERSIONS}", row)
        return replaced

    def set_applied(self, term: int, seq: int) -> None:
        """Note that the records up to ``seq`` are in."""
        self.connection.execute("UPDATE state SET term = ?, seq = ?", (term, seq))

    def set_void(self, term: int, seq: int) -> None:
        """Note that records of terms up to ``term`` with number ``seq`` or more never count."""
        self.connection.execute("UPDATE state SET void_term = ?, void_seq = ?", (term, seq))

    def set_created(self, created_ms: int) -> None:
        """Note when the store of versions began, as far as its versions are all here."""
        self.connection.execute("UPDATE state SET created_ms = ?", (created_ms,))

    def set_stopped(self, stopped_with: str | None) -> None:
        """Leave what the next start may rely on; None takes it back."""
        self.connection.execute("UPDATE state SET stopped_with = ?", (stopped_with,))

    def checkpoint(self, *, wait: bool) -> None:
        """Carry the write-ahead log over into the database file and sync it.

        :param wait: until all of it is, and the log is cut to nothing; otherwise as much as can be
            without stopping a writer.
        """
        mode = "TRUNCATE" if wait else "PASSIVE"
        self.connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()

    # Reading

    def latest(self, name: str) -> Version | None:
        """The newest version, tombstones included."""
        return self._one(
            f"SELECT {_ROW} FROM versions v WHERE name = ? ORDER BY number DESC LIMIT 1", (name,)
        )

    def newest(self, names: Sequence[str]) -> dict[str, Version]:
        """The newest version of each name that has one, tombstones included."""
        found: dict[str, Version] = {}
        for some in _portions(names):
            rows = self.connection.execute(
                f"WITH asked (name) AS (VALUES (?){', (?)' * (len(some) - 1)})"
                f" SELECT {_ROW} FROM asked CROSS JOIN versions v ON v.name = asked.name AND"
                " v.number = (SELECT max(number) FROM versions WHERE name = asked.name)",
                some,
            )
            for row in rows:
                version = version_of(row)
                found[version.name] = version
        return found

    def get(self, name: str, number: int) -> Version | None:
        """One version."""
        if not 0 < number <= MAX_NUMBER:
            return None
        return self._one(
            f"SELECT {_ROW} FROM versions v WHERE name = ? AND number = ?", (name, number)
        )

    def history(self, name: str, first: int, limit: int) -> Sequence[Version]:
        """Versions of one name, from number ``first`` on."""
        return self._all(
            f"SELECT {_ROW} FROM versions v WHERE name = ? AND number >= ? ORDER BY number LIMIT ?",
            (name, *_bounded(first, limit)),
        )

    def current(self, prefix: str, start: str, limit: int) -> Sequence[Version]:
        """Newest versions that are no tombstones, by name."""
        low, high, bound = _range("c.name", prefix, start)
        return self._all(
            f"SELECT {_ROW} FROM current c CROSS JOIN versions v"
            " ON v.name = c.name AND v.number = c.number"
            f" WHERE c.name >= ?{high} ORDER BY c.name LIMIT ?",
            (low, *bound, _bounded(0, limit)[1]),
        )

    def versions(self, prefix: str, start: str, first: int, limit: int) -> Sequence[Version]:
        """Every version, by name and number, from version ``first`` of ``start`` on."""
        low, high, bound = _range("v.name", prefix, start)
        first, limit = _bounded(first if low == start else 0, limit)
        return self._all(
            f"SELECT {_ROW} FROM versions v WHERE (v.name, v.number) >= (?, ?){high}"
            " ORDER BY v.name, v.number LIMIT ?",
            (low, first, *bound, limit),
        )

    def referenced(self, hashes: Collection[ContentHash]) -> set[ContentHash]:
        """Those that some version refers to."""
        digests = [content_hash.digest for content_hash in hashes]
        found: set[ContentHash] = set()
        for at in range(0, len(digests), _HASHES):
            some = digests[at : at + _HASHES]
            rows = self.connection.execute(
                f"WITH asked (hash) AS (VALUES {', '.join(['(?)'] * len(some))})"
                " SELECT hash FROM asked WHERE EXISTS"
                " (SELECT 1 FROM versions v WHERE v.hash = asked.hash)",
                some,
            )
            found.update(ContentHash(row[0]) for row in rows)
        return found

    def _one(self, sql: str, values: Sequence[object]) -> Version | None:
        row = self.connection.execute(sql, values).fetchone()
        return None if row is None else version_of(row)

    def _all(self, sql: str, values: Sequence[object]) -> Sequence[Version]:
        return [version_of(row) for row in self.connection.execute(sql, values)]


def _portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in portions of 64, 48, 32, and 16 or less, so that there are few different
    statements, and no more than two portions where there are no more than 64 items.
    """
    at = 0
    while (left := len(items) - at) > 0:
        size = left if left <= _PORTION else min(_ROWS, left // _PORTION * _PORTION)
        yield items[at : at + size]
        at += size


def _bounded(first: int, limit: int) -> tuple[int, int]:
    """Numbers that SQLite takes, and that select the same."""
    return max(0, min(first, MAX_NUMBER)), max(0, min(limit, MAX_NUMBER))


def _range(column: str, prefix: str, start: str) -> tuple[str, str, tuple[str, ...]]:
    """The least name of a listing, the condition for its end, and that condition's values."""
    end = successor(prefix)
    return (
        max(prefix, start),
        "" if end is None else f" AND {column} < ?",
        () if end is None else (end,),
    )
