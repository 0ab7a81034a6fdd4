"""docs/declarative.md: its documents are read, its names are those of the commands."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from junctor.cli.app import BUILT_IN
from junctor.cli.lazy import load
from junctor.declare.documents import understand
from junctor.declare.kinds import KINDS
from junctor.declare.reading import read

PAGE = (Path(__file__).parents[2] / "docs" / "declarative.md").read_text()


def test_the_example_is_understood() -> None:
    [example] = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    documents = understand(read(example, "example"), workspace="default")
    assert [document.kind.name for document in documents] == ["Workspace", "Secret", "Provider", "VirtualModel"]


def test_every_kind_and_every_kept_field_is_told() -> None:
    for kind in KINDS:
        assert f"`{kind.name}`" in PAGE
        for field in kind.kept:
            assert f"`{field}`" in PAGE


def test_flags_that_the_page_names_are_there() -> None:
    options: set[str] = set()
    for name in ("apply", "diff", "export", "import"):
        loaded = load(name, BUILT_IN[name].target)
        app = loaded if isinstance(loaded, typer.Typer) else typer.Typer()
        if app is not loaded:
            app.command()(loaded)
        command = typer.main.get_command(app)
        for each in [command, *getattr(command, "commands", {}).values()]:
            options |= {flag for parameter in each.params for flag in parameter.opts}
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+|-[A-Za-z])(?=[ `\n)])", PAGE))
    assert named
    assert named - options == set()
