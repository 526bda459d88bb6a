"""What the processes of one API server say to each other: one byte tells what, the rest is it.

The *front* is the process that accepts connections; the others are its workers.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

#: To a worker: how it is configured, with the table of writes when there is one.
HELLO = b"H"

#: To a worker, with a connection: its number, whether another must go for it, and what came of it.
GIVE = b"G"

#: To a worker: take no more requests, and end within so many seconds (text).
STOP = b"S"

#: To a worker: tell what you have counted. From one: that (JSON).
COUNT = b"C"

#: To a worker: an answer to ASK.
TOLD = b"T"

#: To a worker: let go of all files of drives.
FORGET = b"F"

#: From a worker: it takes requests.
READY = b"R"

#: From a worker, with a connection: its number, whether the worker had tried to answer, and what
#: came of the request that is waited for on it.
BACK = b"B"

#: From a worker: the number of a connection that has ended.
ENDED = b"E"

#: From a worker: a line for the log (JSON).
LOG = b"L"

#: From a worker: what is the version of a name, and where are the shards of its content?
ASK = b"A"

#: From a worker: it has read these contents (JSON).
READ = b"D"

#: What a line of the log has at most; a trace may be long.
MAX_LOG_CHARACTERS = 16_384

_CONNECTION = struct.Struct("<cQ?")
_QUESTION = struct.Struct("<cQQ")


def format_json(kind: bytes, told: Mapping[str, Any]) -> bytes:
    """A message that is JSON."""
    return kind + json.dumps(told, ensure_ascii=True).encode("ascii")


def parse_json(data: bytes) -> dict[str, Any]:
    """What :func:`format_json` was given.

    :raises ValueError: it is no such message.
    """
    told = json.loads(data[1:])
    if not isinstance(told, dict):
        raise ValueError("a message of another process is no object of JSON")
    return told


def format_seconds(kind: bytes, seconds: float) -> bytes:
    """A message that is a time."""
    return kind + b"%r" % seconds


def parse_seconds(data: bytes) -> float:
    """What :func:`format_seconds` was given.

    :raises ValueError: it is no such message.
    """
    seconds = float(data[1:])
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError("a message of another process is no time")
    return seconds


def format_log(level: str, namespace: str, text: str) -> bytes:
    """A line for the log."""
    told = {"level": level, "namespace": namespace, "text": text[:MAX_LOG_CHARACTERS]}
    return format_json(LOG, told)


def format_connection(kind: bytes, number: int, flag: bool, data: bytes = b"") -> bytes:
    """A message about a connection."""
    return _CONNECTION.pack(kind, number, flag) + data


def parse_connection(message: bytes) -> tuple[int, bool, bytes]:
    """What :func:`format_connection` was given.

    :raises ValueError: it is no such message.
    """
    if len(message) < _CONNECTION.size:
        raise ValueError("a message about a connection is too short")
    _, number, flag = _CONNECTION.unpack_from(message)
    return number, flag, message[_CONNECTION.size :]


def format_question(name: str, number: int, question: int) -> bytes:
    """ASK.

    :param number: of the version; 0: the newest.
    :param question: by which the answer will be known.
    """
    return _QUESTION.pack(ASK, question, number) + name.encode()


def parse_question(message: bytes) -> tuple[str, int, int]:
    """What :func:`format_question` was given.

    :raises ValueError: it is no such message.
    """
    if len(message) < _QUESTION.size:
        raise ValueError("a question is too short")
    _, question, number = _QUESTION.unpack_from(message)
    return message[_QUESTION.size :].decode(), number, question
