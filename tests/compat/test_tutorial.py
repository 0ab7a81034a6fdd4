"""docs/tutorial.md as a new user follows it: every snippet is run as written, in order, and says what the page says.

Only addresses differ: the page's ports are exchanged for free ones. ``…`` in an expected output stands for anything.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compat import environments
from tests.compat.worker import clean_environment
from tests.ports import free_port

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BIN = Path(sys.executable).parent
KEY = "the-administrators-key-of-the-tutorial"
SECONDS = 90
"""Bound of one snippet; only ends one that hangs."""
_BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Snippet:
    """One block of the page, and the output that follows it."""

    number: int
    language: str
    kind: str
    code: str
    expected: str | None


def snippets(page: str) -> list[Snippet]:
    found: list[Snippet] = []
    for language, kind, code in _BLOCK.findall(page):
        if language == "text":
            last = found.pop()
            assert last.expected is None
            found.append(Snippet(last.number, last.language, last.kind, last.code, code))
        else:
            found.append(Snippet(len(found) + 1, language, kind, code, None))
    return found


SNIPPETS = snippets(PAGE.read_text())


class Terminal:
    """A user's shell: runs what the page says, with free ports in place of the page's."""

    def __init__(self, folder: Path, litellm: Callable[[], Path], *, auth: bool = False) -> None:
        """``auth``: junctor is run with auth on, and the key of its administrator is in every environment."""
        self._folder = folder
        self._litellm = litellm
        self._demo = str(free_port())
        edge, grpc = free_port(), free_port()
        self._environment = clean_environment(folder) | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "100",
            "JUNCTOR_PORT": str(edge),
            "JUNCTOR_GRPC_PORT": str(grpc),
            "JUNCTOR_DETECT": "off",
            "JUNCTOR_BASE_URL": f"http://localhost:{edge}",
            "JUNCTOR_GRPC_TARGET": f"localhost:{grpc}",
            "OPENAI_BASE_URL": f"http://localhost:{edge}/v1",
        }
        if auth:
            self._environment |= {
                "JUNCTOR_AUTH": "on",
                "JUNCTOR_ADMIN_KEY": KEY,
                "JUNCTOR_ACCESS_TOKEN": KEY,
                "OPENAI_API_KEY": KEY,
            }

    def serve(self, snippet: Snippet, stack: ExitStack) -> None:
        """Start a server, and wait for the line that says it is there."""
        log = self._folder / f"server-{snippet.number}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._bash(snippet),
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
        stack.callback(self._end, process)
        end = time.monotonic() + SECONDS
        while not re.search(r"http://\S+", log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)

    def run(self, snippet: Snippet) -> str:
        """Run a snippet to its end; returns what it wrote. It must not fail."""
        if snippet.language == "bash":
            command = self._bash(snippet)
        else:
            python = self._litellm() if snippet.kind == "litellm" else Path(sys.executable)
            command = [str(python), "-c", self._here(snippet.code)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self._environment, cwd=self._folder,
            timeout=SECONDS, check=False, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _bash(self, snippet: Snippet) -> list[str]:
        return ["bash", "-euo", "pipefail", "-c", self._here(snippet.code)]

    def _here(self, code: str) -> str:
        return code.replace("8090", self._demo)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(SECONDS)


@pytest.fixture(scope="module", params=[False, True], ids=["auth-off", "auth-on"])
def terminal(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    environment: Callable[[str, Callable[[], Path]], Path],
) -> Iterator[tuple[Terminal, ExitStack]]:
    def litellm() -> Path:
        return environment("litellm", lambda: environments.python_with("vendors"))

    with ExitStack() as stack:
        yield Terminal(tmp_path_factory.mktemp("tutorial"), litellm, auth=request.param), stack


def pattern(expected: str) -> re.Pattern[str]:
    """Make the expression for an expected output: ``…`` is anything, spaces at the ends of lines do not count."""
    lines = (line.rstrip() for line in expected.strip().splitlines())
    return re.compile(".*".join(map(re.escape, "\n".join(lines).split("…"))), re.S)


@pytest.mark.compat
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: f"{s.number}-{s.kind or s.language}")
def test_the_tutorial_holds(terminal: tuple[Terminal, ExitStack], snippet: Snippet) -> None:
    shell, stack = terminal
    if snippet.kind == "server":
        shell.serve(snippet, stack)
        return
    written = "\n".join(line.rstrip() for line in shell.run(snippet).strip().splitlines())
    assert snippet.expected is not None, "the page does not say what comes of this"
    assert pattern(snippet.expected).fullmatch(written), written


def test_the_page_has_every_kind_of_snippet() -> None:
    assert {snippet.kind or snippet.language for snippet in SNIPPETS} == {"server", "bash", "python", "litellm"}
    assert not pattern("a…c").fullmatch("abd")
