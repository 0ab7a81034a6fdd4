"""Completion in the shells that are on this machine: the script that ``junctor`` prints, sourced by the shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = {
    "bash": """
source <(_JUNCTOR_COMPLETE=source_bash junctor)
COMP_WORDS=($LINE$LAST) COMP_CWORD=$(($(set -- $LINE x; echo $#) - 1)) COMPREPLY=()
[ -n "$LAST" ] || COMP_WORDS+=("")
_junctor_completion junctor "$LAST"
printf '%s\\n' "${COMPREPLY[@]}"
""",
    "zsh": """
compdef() { }
_arguments() { print -- "$@" }
eval "$(_JUNCTOR_COMPLETE=source_zsh junctor)"
words=(${=LINE} "$LAST") CURRENT=${#words}
_junctor_completion
""",
    "fish": """
_JUNCTOR_COMPLETE=source_fish junctor | source
complete -C "$LINE$LAST"
""",
}


@pytest.mark.parametrize(
    ("line", "last", "offered", "not_offered"),
    [
        ("junctor ", "", ["chat", "inference", "up", "detect"], ["get-url"]),
        ("junctor ", "inf", ["inference"], ["chat"]),
        ("junctor inference providers ", "d", ["drain", "disable", "delete"], ["enable"]),
        ("junctor models list -o ", "", ["table", "json", "yaml", "csv", "markdown"], ["raw"]),
        ("junctor up ", "--no", ["--no-demo", "--no-detect"], ["--port"]),
        ("junctor -w lab snippet m --lang ", "g", ["grpc-python", "grpc-go"], ["curl"]),
    ],
    ids=["commands", "start", "below", "values", "flags", "after-a-flag"],
)
@pytest.mark.parametrize("shell", PROGRAMS)
def test_the_shell_offers(
    shell: str, line: str, last: str, offered: list[str], not_offered: list[str], tmp_path: Path
) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not on this machine")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [program, "-c", PROGRAMS[shell]],
        env={"PATH": path, "HOME": str(tmp_path), "LINE": line, "LAST": last, "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    words = done.stdout.replace('"', " ").replace("\\", "").replace(":", " ").split()
    assert set(offered) <= set(words), done
    assert not set(not_offered) & set(words), done
