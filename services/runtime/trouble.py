"""What keeps going wrong is said once: a loop that fails every second would bury the log under its tracebacks.

A trouble is told when it begins, when its reason changes and when it is over, and is silent in between.
"""

from __future__ import annotations

import logging

from junctor.errors import JunctorError


class Trouble:
    """One thing that is done again and again, and what it fails with at present."""

    def __init__(self, logger: logging.Logger, what: str) -> None:
        """``what`` is the line's text: ``could not …``."""
        self._logger = logger
        self._what = what
        self._reason = ""

    def failed(self, error: Exception) -> None:
        """Take note of a failure. A refusal of junctor's is one line; anything else is a fault, with its traceback."""
        reason = _reason(error)
        if reason == self._reason:
            return
        self._reason = reason
        if isinstance(error, (JunctorError, OSError)):
            self._logger.warning("%s, will retry", self._what, extra={"reason": reason})
        else:
            self._logger.error("%s, will retry", self._what, exc_info=error)

    def over(self) -> None:
        """Take note that it went well."""
        if self._reason:
            self._reason = ""
            self._logger.info("%s: that is over", self._what)


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, JunctorError) else f"{type(error).__name__}: {error}"
