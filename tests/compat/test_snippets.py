"""Every form of ``junctor snippet`` for a client that is not ours, saved to a file and run as a user would run it.

``curl``, ``python`` and ``grpc-python`` are run by ``tests/e2e/test_cli_commands.py``, ``grpc-go`` by ``make interop``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compat import environments
from tests.compat.place import Edge
from tests.compat.worker import clean_environment

SECONDS = 90
"""Bound of one program; only ends one that hangs."""

Environment = Callable[[str, Callable[[], Path]], Path]


def command_for(lang: str, snippet: str, folder: Path, environment: Environment) -> list[str]:
    """Save a snippet where its language finds its packages; returns what runs it."""
    if lang != "node":
        python = environment("litellm, anthropic", lambda: environments.python_with("vendors"))
        (folder / "ask.py").write_text(snippet)
        return [str(python), "ask.py"]
    packages = environment("the OpenAI Node SDK", environments.node_with_openai)
    (folder / "node_modules").symlink_to(packages / "node_modules")
    (folder / "ask.mjs").write_text(snippet)
    return [str(shutil.which("node")), "ask.mjs"]


@pytest.mark.compat
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("lang", ["node", "litellm", "anthropic"])
def test_a_snippet_runs_as_it_is(edge: Edge, environment: Environment, tmp_path: Path, lang: str, stream: bool) -> None:
    flags = ["--stream"] if stream else []
    shown = run(
        [str(Path(sys.executable).with_name("junctor")), "snippet", "demo-echo-1", "--lang", lang,
         "--prompt", 'It\'s "me"', "--base-url", edge.url, *flags],
        tmp_path,
    )  # fmt: skip
    assert run(command_for(lang, shown, tmp_path, environment), tmp_path).startswith('You said: It\'s "me"')


def run(command: list[str], folder: Path) -> str:
    """Run a program; returns what it wrote. It must not fail."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=folder, env=clean_environment(folder)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
