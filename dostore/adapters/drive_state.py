"""What a drive is good for."""

from __future__ import annotations

import errno
from enum import Enum

#: The process, not the drive, is short of something, or the write was given up.
OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ECANCELED}


class DriveState(Enum):
    """What a drive is good for."""

    LIVE = "live"
    #: It is read, but takes no writes: full, read-only, or failing them.
    READ_ONLY = "read-only"
    #: Gone, hung, or not yet scanned.
    AWAY = "away"
