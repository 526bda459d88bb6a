"""An open file of a shard, of which blocks are read on any thread."""

from __future__ import annotations

import threading

from dostore.adapters.files import Files
from dostore.adapters.large_files import LargeReads
from dostore.core.names import ShardName
from dostore.core.shardfile import PAGE_BLOCKS, Footer, Page, parse_footer
from dostore.core.stripes import Block
from dostore.errors import BadShard, NodeUnavailable

#: To read so many plain bytes of a compressed shard takes as long as to go to a thread and back.
_INFLATED_AT_ONCE_BYTES = 32 * 1024


class OpenShard:
    """An open shard file. Its reads may run on several threads; closing waits for none of them.

    :param size: bytes of the file, if it is not there as a whole.
    """

    def __init__(
        self, files: Files, fd: int | None, footer: Footer, whole: bytes | None, size: int = 0
    ) -> None:
        self._files = files
        self._fd = fd
        self._reads = None if fd is None else LargeReads(files, fd, size)
        self._whole = whole
        self._lock = threading.Lock()
        self._busy = 0
        self._closed = False
        self._page = footer.last
        self.footer = footer
        if whole is not None:
            self.close()

    def __del__(self) -> None:
        """An opening whose waiter gave up hands its file to nobody."""
        self.close()

    def is_quick(self, first: int, count: int) -> bool:
        """Whether reading some blocks takes no wait and no long work: any thread may do it."""
        if self._whole is None:
            return False
        if not self.footer.deflated:
            return True
        content = self.footer.info.content
        plain = content.scheme.block_range_length(content.size, first, count)
        return plain <= _INFLATED_AT_ONCE_BYTES

    def read(self, first: int, count: int) -> Block:
        """The plain bytes of ``count`` blocks from ``first`` on.

        :raises BadShard: a block is not what was written.
        """
        if self._whole is not None:
            return self._read(first, count)
        with self._lock:
            if self._closed:
                raise NodeUnavailable("The shard was closed.")
            self._busy += 1
        try:
            return self._read(first, count)
        finally:
            with self._lock:
                self._busy -= 1
                release = self._closed and not self._busy
            if release:
                self._release()

    def _release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            self._files.close(fd)

    def _read(self, first: int, count: int) -> Block:
        pieces = []
        while count:
            page = self._page_of(first)
            here = min(count, page.first + page.count - first)
            if here <= 0:
                raise BadShard(f"The shard has no block {first}.")
            offset, length = page.span(first, here)
            pieces.append(page.plain(first, here, self._stored(length, offset)))
            first += here
            count -= here
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _stored(self, size: int, offset: int) -> Block:
        if self._whole is not None:
            return self._whole[offset : offset + size]
        assert self._reads is not None, "an open shard has a file"
        return self._reads.read(size, offset)

    def _page_of(self, block: int) -> Page:
        page = self._page
        if page.first <= block < page.first + page.count:
            return page
        number = block // PAGE_BLOCKS
        if number >= self.footer.pages:
            return self.footer.last
        offset, length = self.footer.page_span(number)
        page = self.footer.page(number, self._stored(length, offset))
        self._page = page
        return page

    def is_at(self, path: str) -> bool:
        """Whether this very file is the one at a path; so taken when it was closed already."""
        with self._lock:
            if self._fd is None or self._closed:
                return True
            return self._files.identity(self._fd) == self._files.identity(path)

    def close(self) -> None:
        """Release the file, now or when the last read under way has ended. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._busy:
                return
        self._release()


def footer_of(name: ShardName, footer: bytes, file_size: int) -> Footer:
    """Read the footer of a file that goes by a name."""
    parsed = parse_footer(footer, file_size)
    if (parsed.info.content.hash, parsed.info.index) != (name.content_hash, name.index):
        raise BadShard("The file is another shard's.")
    return parsed
