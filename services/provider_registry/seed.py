"""The provider that is there from the start: NVIDIA's hosted models, waiting for a key."""

from __future__ import annotations

from contextlib import suppress

from junctor.errors import ResourceExists
from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.store import ProviderStore

WORKSPACE = "system"
NAME = "nvidia-build"
SECRET_NAME = "nvidia-api-key"  # noqa: S105 - the name of a secret
HOST_URL = "https://integrate.api.nvidia.com"
WAITING = f"Waiting for its API key. Run: junctor secrets create {SECRET_NAME} --workspace {WORKSPACE} --from-file -"
"""``status_message`` as long as the secret does not exist."""


async def seed(store: ProviderStore) -> None:
    """Create the provider unless it is there; what a user made of it stays."""
    provider = pb.Provider(
        workspace=WORKSPACE,
        name=NAME,
        description="Models hosted by NVIDIA (build.nvidia.com).",
        host_url=HOST_URL,
        api_key_secret_name=SECRET_NAME,
        status=pb.PROVIDER_STATUS_PENDING,
        status_message=WAITING,
        auth_context=pb.AuthContext(),
    )
    with suppress(ResourceExists):
        await store.create(provider)


def may_lack_its_secret(workspace: str, name: str, secret: str) -> bool:
    """Tell whether this is the seed with its own secret: it may name that before it exists."""
    return (workspace, name, secret) == (WORKSPACE, NAME, SECRET_NAME)


def waits_for_its_secret(provider: pb.Provider) -> bool:
    """Tell whether this provider is PENDING, and not failing, while its secret does not exist."""
    return may_lack_its_secret(provider.workspace, provider.name, provider.api_key_secret_name)
