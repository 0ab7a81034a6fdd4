"""What detection looks for: ports of local model servers, and environment variables with vendors' keys.

Origins, paths and authentication are those of each vendor's own API reference for its OpenAI-compatible
endpoint (Anthropic's for its Messages API).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LocalServer:
    """A model server that listens on ``port`` of loopback by default."""

    port: int
    provider: str
    title: str


LOCAL_SERVERS = (
    LocalServer(11434, "ollama", "Ollama"),
    LocalServer(8000, "vllm", "vLLM or NIM"),
    LocalServer(8080, "llama-cpp", "llama.cpp"),
    LocalServer(8081, "llama-cpp-8081", "llama.cpp"),
    LocalServer(1234, "lm-studio", "LM Studio"),
    LocalServer(30000, "sglang", "SGLang"),
)


@dataclass(frozen=True)
class Vendor:
    """A vendor whose key may be in the environment; the key is sent to ``host_url`` and nowhere else."""

    variable: str
    provider: str
    title: str
    host_url: str
    auth_header_format: str | None = None
    """None: ``Authorization: Bearer``."""
    headers: dict[str, str] = field(default_factory=dict)
    api_base_path: str | None = None
    """Replaces the leading ``v1/`` of a caller's path; None: kept."""
    workspace: str = "default"
    secret: str = ""
    seeded: bool = False
    """The registry makes this provider itself; detection only brings the key."""
    base_url_variables: tuple[str, ...] = ()
    """Variables of the vendor's SDK: set to another host, the key belongs to that host."""

    @property
    def secret_name(self) -> str:
        """Name of the secret, in the provider's workspace."""
        return self.secret or f"{self.provider}-api-key"


VENDORS = (
    Vendor(
        "NVIDIA_API_KEY",
        "nvidia-build",
        "NVIDIA",
        "https://integrate.api.nvidia.com",
        workspace="system",
        secret="nvidia-api-key",  # noqa: S106 - a secret's name
        seeded=True,
    ),
    Vendor(
        "OPENAI_API_KEY",
        "openai",
        "OpenAI",
        "https://api.openai.com/v1",
        base_url_variables=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    ),
    Vendor(
        "ANTHROPIC_API_KEY",
        "anthropic",
        "Anthropic",
        "https://api.anthropic.com",
        auth_header_format="x-api-key: {{ auth_secret }}",
        headers={"anthropic-version": "2023-06-01"},
        base_url_variables=("ANTHROPIC_BASE_URL",),
    ),
    Vendor(
        "GEMINI_API_KEY",
        "gemini",
        "Gemini",
        "https://generativelanguage.googleapis.com",
        api_base_path="/v1beta/openai",
        base_url_variables=("GOOGLE_GEMINI_BASE_URL",),
    ),
    Vendor("OPENROUTER_API_KEY", "openrouter", "OpenRouter", "https://openrouter.ai/api/v1"),
    Vendor(
        "GROQ_API_KEY",
        "groq",
        "Groq",
        "https://api.groq.com/openai/v1",
        base_url_variables=("GROQ_BASE_URL",),
    ),
    Vendor("MISTRAL_API_KEY", "mistral", "Mistral", "https://api.mistral.ai/v1"),
)
