"""The chunked transfer coding (RFC 9112 section 7.1), decoded without a socket.

Bytes in, body out. No more is taken than the grammar allows: no sign, prefix or space around a
chunk's size, no bare LF, and nothing of any length without a bound.
"""

from __future__ import annotations

import re

from dostore.errors import InvalidRequest

#: A line with a chunk's size and extensions, with its line end.
MAX_LINE_BYTES = 1024
#: All the fields after the last chunk. They are read and dropped.
MAX_TRAILER_BYTES = 8192

# Fifteen digits are more than an exabyte.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n\Z")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n\Z")

# What is expected next.
_SIZE, _DATA, _DATA_END, _TRAILER, _NOTHING = range(5)


class ChunkedDecoder:
    """Decodes one body, in pieces of any size.

    :ivar ended: the body is complete.
    :ivar rest: when it is, the bytes that came after it.
    :ivar chunks: how many chunks have begun.
    """

    __slots__ = ("_expected", "_left", "_line", "_trailer_bytes", "chunks", "ended", "rest")

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""
        self.chunks = 0
        self._expected = _SIZE
        self._left = 0
        self._line = b""
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """What ``data`` holds of the body, in order.

        :raises InvalidRequest: the coding is malformed. The decoder cannot be used any more.
        """
        pieces: list[bytes] = []
        position = 0
        while position < len(data) and not self.ended:
            if self._expected == _DATA:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._expected = _DATA_END
            else:
                position = self._feed_line(data, position)
        if self.ended:
            self.rest = data[position:]
        return pieces

    def _feed_line(self, data: bytes, position: int) -> int:
        """Take a line or what there is of it; where to go on."""
        room = MAX_LINE_BYTES - len(self._line)
        end = data.find(b"\n", position, position + room) + 1
        if end:
            line = self._line + data[position:end]
            self._line = b""
            self._take_line(line)
            return end
        if len(data) - position >= room:
            raise _malformed(f"a line is longer than {MAX_LINE_BYTES} bytes")
        self._line += data[position:]
        return len(data)

    def _take_line(self, line: bytes) -> None:
        if self._expected == _DATA_END:
            if line != b"\r\n":
                raise _malformed("a chunk is longer than its size")
            self._expected = _SIZE
        elif self._expected == _SIZE:
            match = _SIZE_LINE.match(line)
            if match is None:
                raise _malformed("a chunk's size is not 1 to 15 hexadecimal digits before CR LF")
            self.chunks += 1
            self._left = int(match[1], 16)
            self._expected = _DATA if self._left else _TRAILER
        elif line == b"\r\n":
            self._expected = _NOTHING
            self.ended = True
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_TRAILER_BYTES or not _TRAILER_LINE.match(line):
                raise _malformed("its trailer fields are malformed or too long")


def _malformed(what: str) -> InvalidRequest:
    return InvalidRequest(f"The chunked body is malformed: {what}.")
