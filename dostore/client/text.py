"""How names, sizes and times are written for people, whatever is in them."""

from __future__ import annotations

import unicodedata

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def shown(text: str) -> str:
    """``text`` with everything escaped that a terminal would not show as a character.

    So no name can move the cursor, change colours, or be written from right to left.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:
        # A byte of a file's name that is not UTF-8.
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def size_text(size_bytes: float) -> str:
    """``size_bytes`` in a unit that fits: ``1.2 MB``."""
    unit = 0
    while size_bytes >= 999.5 and unit < len(_UNITS) - 1:
        size_bytes /= 1000
        unit += 1
    digits = 0 if unit == 0 or size_bytes >= 99.95 else 1
    return f"{size_bytes:.{digits}f} {_UNITS[unit] if size_bytes != 1 or unit else 'byte'}"


def seconds_text(seconds: float) -> str:
    """``seconds`` as they are said: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count_text(count: int, one: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"
