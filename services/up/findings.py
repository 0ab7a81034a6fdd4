"""What detection found and what came of it: one line for the start-up screen each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """What came of a finding."""

    ADDED = "added"
    UPDATED = "updated"
    KEPT = "already there"
    LEFT_ALONE = "left alone"
    """Something of the user's is in the way; nothing was changed."""
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """A provider that detection found."""

    source: str
    """Where it was found: ``Ollama on 127.0.0.1:11434`` or ``OPENAI_API_KEY``."""
    provider: str
    """``workspace/name``."""
    state: State
    note: str = ""
    """Why, if the state does not say it all."""

    @property
    def line(self) -> str:
        """The finding as one line."""
        return f"{self.source} -> {self.provider}: {self.state.value}{f' ({self.note})' if self.note else ''}"
