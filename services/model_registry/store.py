"""The store of model_registry: model entities, virtual models, and the fields that each may be written with."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from google.protobuf.message import Message

from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from services.runtime.changes import Feed
from services.runtime.incarnations import Incarnations, Place, adopt, in_place, places_of
from services.runtime.resources import Kind, ResourceStore
from services.runtime.workspaces import Judgement

MIGRATIONS = Path(__file__).parent / "migrations"


def _given(message: Message, field: str) -> str | None:
    if not message.HasField(field):
        return None
    value = getattr(message, field)
    return value.decode() if isinstance(value, bytes) else str(value)


def _model_fields(model: pb.Model) -> dict[str, str | None]:
    plain = ("project", "description", "base_model", "finetuning_type", "fileset", "prompt", "adapters")
    return {
        **{field: _given(model, field) for field in plain},
        "lora_enabled": "true" if model.finetuning_type == "lora" else "false",
    }


MODEL = Kind(
    name="model",
    table="models",
    message=pb.Model,
    id_prefix="model",
    fields=_model_fields,
    missing=lambda workspace, name: f"Model with workspace '{workspace}' and name '{name}' not found",
    exists=lambda workspace, name: f"Model with workspace '{workspace}' and name '{name}' already exists",
    filterable=frozenset(
        {"project", "base_model", "adapters", "finetuning_type", "prompt", "lora_enabled", "description", "fileset"}
    ),
    presence=frozenset({"base_model", "adapters", "finetuning_type", "prompt"}),
    hidden=frozenset({"api_endpoint", "custom_fields"}),
)

VIRTUAL_MODEL = Kind(
    name="virtual_model",
    table="virtual_models",
    message=vpb.VirtualModel,
    id_prefix="virtual-model",
    fields=lambda virtual: {
        "project": _given(virtual, "project"),
        "default_model_entity": _given(virtual, "default_model_entity"),
        "autoprovisioned": "true" if virtual.autoprovisioned else "false",
    },
    missing=lambda workspace, name: f"VirtualModel '{name}' not found in workspace '{workspace}'.",
    exists=lambda workspace, name: f"VirtualModel '{name}' already exists in workspace '{workspace}'.",
    filterable=frozenset({"project", "default_model_entity", "autoprovisioned"}),
    default_order="-created_at",
    default_page_size=20,
    hidden=frozenset({"request_middleware", "response_middleware", "post_response_middleware", "override_proxy"}),
)

MODEL_WRITABLE = (
    "description",
    "project",
    "base_model",
    "fileset",
    "finetuning_type",
    "api_endpoint",
    "backend_format",
    "prompt",
    "custom_fields",
    "ownership",
    "model_providers",
    "spec",
    "trust_remote_code",
    "adapters",
    "labels",
)
"""Fields of a model entity that a caller may write."""

VIRTUAL_MODEL_WRITABLE = (
    "description",
    "project",
    "default_model_entity",
    "models",
    "request_middleware",
    "response_middleware",
    "post_response_middleware",
    "override_proxy",
    "routing",
    "labels",
)
"""Fields of a virtual model that a caller may write."""


SERVED = sa.Table(
    "served",
    sa.MetaData(),
    sa.Column("workspace", sa.String, primary_key=True),
    sa.Column("entity", sa.String, primary_key=True),
    sa.Column("provider_id", sa.String, primary_key=True),
    sa.Column("provider", sa.String),
    sa.Column("workspace_id", sa.String),
)
"""Which provider serves which entity, as of each provider's last sync."""


class ModelStores:
    """The tables of one model registry; they share the change feed."""

    def __init__(self, feed: Feed, *, incarnations: Incarnations | None = None) -> None:
        self.feed = feed
        self.models: ResourceStore[pb.Model] = ResourceStore(feed, MODEL, incarnations=incarnations)
        self.virtual_models: ResourceStore[vpb.VirtualModel] = ResourceStore(
            feed, VIRTUAL_MODEL, incarnations=incarnations
        )
        self._tables = (self.models.table, self.virtual_models.table, SERVED)

    async def places(self) -> set[Place]:
        """Return the workspaces that something lies in, with their ids."""
        async with self.feed.database.read() as tx:
            return await places_of(tx, *self._tables)

    async def index(self) -> None:
        """Let the rows of virtual models that 0.1 wrote be found by ``autoprovisioned``, too; for the start."""
        store, table = self.virtual_models, self.virtual_models.table
        lacking = sa.select(table.c.body).where(table.c.fields["autoprovisioned"].as_string().is_(None))
        async with self.feed.database.read() as tx:
            if (await tx.execute(lacking.limit(1))).first() is None:
                return
        of_one = (table.c.workspace == sa.bindparam("of_workspace"), table.c.name == sa.bindparam("of_name"))
        written = sa.update(table).where(*of_one).values(fields=sa.bindparam("given", type_=sa.JSON))
        async with store.transaction() as tx:
            found = [store.decode(row.body) for row in await tx.execute(lacking)]
            rows = [{"of_workspace": v.workspace, "of_name": v.name, "given": store.kind.fields(v)} for v in found]
            if rows:
                await tx.execute(written, rows)

    async def settle(self, judgement: Judgement) -> None:
        """Remove everything that lies in deleted workspaces, and note the ids of the others."""
        async with self.models.transaction() as tx:
            await adopt(tx, judgement.adopted, *self._tables)
            await self.models.drop_places(tx, judgement.gone)
            await self.virtual_models.drop_places(tx, judgement.gone)
            for place in judgement.gone:
                # Else a provider that is no more would keep a recreated workspace's virtual models alive.
                await tx.execute(sa.delete(SERVED).where(in_place(SERVED, place)))
