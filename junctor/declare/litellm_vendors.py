"""LiteLLM's provider prefixes (``openai/gpt-4.1``) as addresses of OpenAI-compatible APIs.

Addresses are those of each vendor's own API reference for its OpenAI-compatible endpoint; prefixes and variables
are those of LiteLLM's documentation of its providers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Vendor:
    """Where a prefix leads. ``host_url`` empty: the file must say it. ``variable``: the key without ``api_key``."""

    host_url: str = ""
    variable: str = ""
    api_base_path: str | None = None
    auth_header_format: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    """What is not as it was; empty: nothing."""
    adds_v1: bool = False
    """LiteLLM's ``api_base`` of it is the server's root, below which ``/v1`` is."""


_OWN_API = "its own API is not OpenAI-compatible, and junctor does not translate"
_COMPATIBLE = "called by its OpenAI-compatible endpoint, without LiteLLM's translation of parameters"

VENDORS: Mapping[str, Vendor] = {
    "openai": Vendor("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "text-completion-openai": Vendor("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "custom_openai": Vendor("", "OPENAI_API_KEY"),
    "azure": Vendor("", "AZURE_API_KEY", auth_header_format="api-key: {{ auth_secret }}"),
    "anthropic": Vendor(
        "https://api.anthropic.com",
        "ANTHROPIC_API_KEY",
        auth_header_format="x-api-key: {{ auth_secret }}",
        headers={"anthropic-version": "2023-06-01"},
        why="v1/messages as it is, v1/chat/completions by its OpenAI-compatible endpoint; nothing is translated",
    ),
    "gemini": Vendor(
        "https://generativelanguage.googleapis.com",
        "GEMINI_API_KEY",
        api_base_path="/v1beta/openai",
        why=_COMPATIBLE,
    ),
    "groq": Vendor("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": Vendor("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "openrouter": Vendor("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "deepseek": Vendor("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "together_ai": Vendor("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "fireworks_ai": Vendor("https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    "perplexity": Vendor("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY", api_base_path=""),
    "xai": Vendor("https://api.x.ai/v1", "XAI_API_KEY"),
    "cerebras": Vendor("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "sambanova": Vendor("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "deepinfra": Vendor("https://api.deepinfra.com", "DEEPINFRA_API_KEY", api_base_path="/v1/openai"),
    "nvidia_nim": Vendor("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "moonshot": Vendor("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "cohere": Vendor("https://api.cohere.ai", "COHERE_API_KEY", api_base_path="/compatibility/v1", why=_COMPATIBLE),
    "cohere_chat": Vendor(
        "https://api.cohere.ai", "COHERE_API_KEY", api_base_path="/compatibility/v1", why=_COMPATIBLE
    ),
    "dashscope": Vendor("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "ollama": Vendor("http://localhost:11434", why=_COMPATIBLE, adds_v1=True),
    "ollama_chat": Vendor("http://localhost:11434", why=_COMPATIBLE, adds_v1=True),
    "hosted_vllm": Vendor("", "HOSTED_VLLM_API_KEY"),
    "lm_studio": Vendor("", "LM_STUDIO_API_KEY"),
    "llamafile": Vendor("http://127.0.0.1:8080/v1"),
    "xinference": Vendor("http://127.0.0.1:9997/v1"),
    "litellm_proxy": Vendor("", "LITELLM_PROXY_API_KEY"),
    "openai_like": Vendor("", "OPENAI_LIKE_API_KEY"),
    "databricks": Vendor("", "DATABRICKS_API_KEY"),
}

IMPOSSIBLE: Mapping[str, str] = {
    "bedrock": "AWS signs every request with its caller's credentials (SigV4), which junctor does not",
    "bedrock_converse": "AWS signs every request with its caller's credentials (SigV4), which junctor does not",
    "sagemaker": "AWS signs every request with its caller's credentials (SigV4), which junctor does not",
    "sagemaker_chat": "AWS signs every request with its caller's credentials (SigV4), which junctor does not",
    "vertex_ai": "Google Cloud's tokens live for an hour, and junctor fetches none",
    "vertex_ai_beta": "Google Cloud's tokens live for an hour, and junctor fetches none",
    "watsonx": "IBM's tokens live for an hour, and junctor fetches none",
    "vllm": "runs the model in LiteLLM's own process; start vLLM as a server and use hosted_vllm",
    "azure_ai": "its address depends on model and API version; make a provider of its OpenAI-compatible endpoint",
    "azure_text": "its API version is a query parameter, and junctor sends none of its own",
    "github_copilot": "its tokens are fetched by a login, which junctor has not",
    **dict.fromkeys(
        ("huggingface", "replicate", "cloudflare", "predibase", "palm", "ai21", "nlp_cloud", "petals", "triton"),
        _OWN_API,
    ),
    **dict.fromkeys(("clarifai", "aleph_alpha", "baseten", "voyage", "jina_ai", "oobabooga", "snowflake"), _OWN_API),
}

_INFERRED: tuple[tuple[str, str], ...] = (
    (r"(?:gpt-|chatgpt-|o[1-9](?:-|$)|text-embedding-|dall-e|whisper-|tts-|omni-moderation)", "openai"),
    (r"claude-", "anthropic"),
    (r"(?:gemini-|text-bison|chat-bison)", "vertex_ai"),
    (r"command-", "cohere"),
    (r"mistral-", "mistral"),
    (r"deepseek-", "deepseek"),
)
"""Ids without a prefix, by the vendor whose names these are."""


def split_model(model: str, custom: str) -> tuple[str, str]:
    """Return prefix and upstream id of ``litellm_params.model``; the prefix is empty when nobody can tell it."""
    prefix, slash, rest = model.partition("/")
    if custom:
        return custom, rest if slash and prefix == custom else model
    if slash and (prefix in VENDORS or prefix in IMPOSSIBLE):
        return prefix, rest
    return next((vendor for pattern, vendor in _INFERRED if re.match(pattern, model)), ""), model
