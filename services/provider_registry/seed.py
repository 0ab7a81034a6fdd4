"""The provider that is there from the start: NVIDIA's hosted models, waiting for a key.

Made once for each store: what a user makes of it stays, and so does its deletion.
"""

from __future__ import annotations

from contextlib import suppress

from junctor.errors import ResourceExists
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import secrets_pb2 as spb
from services.provider_registry.secret_store import SecretStore
from services.provider_registry.secrets import value_rule
from services.provider_registry.store import ProviderStore
from services.runtime.auth import Secret

WORKSPACE = "system"
NAME = "nvidia-build"
SECRET_NAME = "nvidia-api-key"  # noqa: S105 - the name of a secret
HOST_URL = "https://integrate.api.nvidia.com"
WAITING = f"Waiting for its API key. Run: junctor secrets create {SECRET_NAME} --workspace {WORKSPACE} --from-file -"
"""``status_message`` as long as the secret does not exist."""
KEY_DESCRIPTION = "Made at the start from NVIDIA_API_KEY"


_MARK = f"seed:{WORKSPACE}/{NAME}"


async def seed(store: ProviderStore) -> None:
    """Create the provider unless it is there or ever was."""
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
    await store.create_once(provider, mark=_MARK)


async def store_key(providers: ProviderStore, secrets: SecretStore, key: Secret) -> bool:
    """Store the key of the environment as the seed's secret; tell whether that was done.

    A secret that is there stays as it is, and without the provider, or a fit value, there is nothing to store.
    """
    async with providers.feed.database.read() as tx:
        provider = await providers.find(tx, WORKSPACE, NAME)
    if provider is None or not waits_for_its_secret(provider) or value_rule(key.reveal()) is not None:
        return False
    secret = spb.Secret(workspace=WORKSPACE, name=SECRET_NAME, value_version=1, description=KEY_DESCRIPTION)
    with suppress(ResourceExists):
        await secrets.create_secret(secret, key)
        return True
    return False


def may_lack_its_secret(workspace: str, name: str, secret: str) -> bool:
    """Tell whether this is the seed with its own secret: it may name that before it exists."""
    return (workspace, name, secret) == (WORKSPACE, NAME, SECRET_NAME)


def waits_for_its_secret(provider: pb.Provider) -> bool:
    """Tell whether this provider is PENDING, and not failing, while its secret does not exist."""
    return may_lack_its_secret(provider.workspace, provider.name, provider.api_key_secret_name)
