"""Who may be able to read a file that holds a key or a token."""

from __future__ import annotations

import os
import stat


def too_open(status: os.stat_result, *, user: int | None = None) -> bool:
    """Tell whether a private file can be read or written by anybody it is not for.

    Its owner alone may have rights; a file of root's may be readable by its group besides. The second is how
    Kubernetes mounts a Secret for a pod that is not root (0440, the group is ``fsGroup``), and PostgreSQL's rule for
    its TLS key. ``user``: who reads it, by default this process; root's own files stay root's.
    """
    reader = os.geteuid() if user is None else user
    allowed = 0o740 if status.st_uid == 0 and reader != 0 else 0o700
    return bool(stat.S_IMODE(status.st_mode) & ~allowed)
