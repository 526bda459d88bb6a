"""What a drive is good for."""

from __future__ import annotations

from enum import Enum


class DriveState(Enum):
    """What a drive is good for."""

    LIVE = "live"
    #: It is read, but takes no writes: full, read-only, or failing them.
    READ_ONLY = "read-only"
    #: Gone, hung, or not yet scanned.
    AWAY = "away"
