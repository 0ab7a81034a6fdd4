"""Reads the Dockerfile and the compose file as an engine does, for tests that have none."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile; ``text`` is what follows its word, continued lines joined."""

    word: str
    text: str

    @property
    def exec_form(self) -> list[str]:
        """The list of ENTRYPOINT and CMD."""
        return [str(part) for part in json.loads(self.text)]

    @property
    def pairs(self) -> dict[str, str]:
        """The variables of ENV, LABEL."""
        return dict(part.split("=", 1) for part in shlex.split(self.text))


def stages(path: Path = ROOT / "Dockerfile") -> list[list[Instruction]]:
    """The instructions of each stage, its FROM first."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found: list[list[Instruction]] = []
    for line in filter(str.strip, joined.splitlines()):
        word, _, text = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        if found:  # an ARG may stand before the first
            found[-1].append(Instruction(word, text.strip()))
    return found


@dataclass(frozen=True)
class Image:
    """What the last stage says of every container."""

    env: Mapping[str, str]
    entrypoint: list[str]
    user: str
    health: list[str]
    labels: Mapping[str, str]
    exposed: set[int]


def image() -> Image:
    """Read the last stage of the Dockerfile."""
    final = {step.word: step for step in stages()[-1]}
    _, _, health = final["HEALTHCHECK"].text.partition("CMD ")
    return Image(
        env=final["ENV"].pairs,
        entrypoint=final["ENTRYPOINT"].exec_form,
        user=final["USER"].text,
        health=[str(part) for part in json.loads(health)],
        labels=final["LABEL"].pairs,
        exposed={int(port) for port in final["EXPOSE"].text.split()},
    )


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """Read deploy/compose.yaml with these variables set, and no others: ``${NAME}`` and ``${NAME:-default}``."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match["name"]) or match["default"] or ""

    text = re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, (DEPLOY / "compose.yaml").read_text())
    read: dict[str, Any] = yaml.safe_load(text)
    return read
