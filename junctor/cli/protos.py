"""``junctor protos``: the gRPC contract as files, for callers in other languages."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import junctor
from junctor.cli.crud import group
from junctor.cli.failure import Failure

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

app = group("The gRPC contract: .proto files, descriptor set.", "junctor protos export ./protos")

DESCRIPTOR_SET = "descriptor_set.binpb"


@app.command(short_help="Write the .proto files and a descriptor set to a folder.")
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; made if absent.")],
) -> None:
    """Write the .proto files (an include root) and descriptor_set.binpb to DIR.

    \b
    Examples:
      junctor protos export ./protos
    """
    sources = list(proto_files())
    if not sources:
        raise Failure("this installation of junctor carries no .proto files")
    try:
        for relative, source in sources:
            place = directory / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(source.read_bytes())
        (directory / DESCRIPTOR_SET).write_bytes(descriptor_set().SerializeToString(deterministic=True))
    except OSError as error:
        raise Failure(f"cannot write to {directory}: {error.strerror or error}") from None
    typer.echo(f"{len(sources)} .proto files and {DESCRIPTOR_SET} in {directory}")


def proto_files() -> list[tuple[str, Traversable]]:
    """List the contract's files by path below the include root (``junctor/v1/…``).

    A wheel carries them in ``junctor/protos``; a checkout has them in ``protos`` at its root.
    """
    roots: list[Traversable] = [files(junctor) / "protos", Path(junctor.__file__).parent.parent / "protos"]
    folder = next((root / "junctor" / "v1" for root in roots if (root / "junctor" / "v1").is_dir()), None)
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name) if folder else []
    return [(f"junctor/v1/{entry.name}", entry) for entry in entries if entry.name.endswith(".proto")]


def descriptor_set() -> FileDescriptorSet:
    """Build the set of all files of the contract and of what they import, dependencies first."""
    from google.protobuf.descriptor import FileDescriptor
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    import junctor.v1 as stubs

    collected: dict[str, FileDescriptor] = {}

    def collect(descriptor: FileDescriptor) -> None:
        for dependency in descriptor.dependencies:
            collect(dependency)
        collected.setdefault(descriptor.name, descriptor)

    for module in pkgutil.iter_modules(stubs.__path__):
        if module.name.endswith("_pb2"):
            collect(importlib.import_module(f"{stubs.__name__}.{module.name}").DESCRIPTOR)
    whole = FileDescriptorSet()
    for descriptor in collected.values():
        descriptor.CopyToProto(whole.file.add())
    return whole
