"""What becomes of LiteLLM's settings beside its models: a table, each row with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from junctor.declare.imported import Report

_LOGS = "what is logged is a setting of junctor's processes: JUNCTOR_LOG_LEVEL, JUNCTOR_LOG_FORMAT"
_CALLBACK = "junctor calls nobody back: its metrics, traces and logs are the way (docs/architecture.md)"
_CACHE = "junctor keeps no answers"
_BUDGET = "junctor keeps no spend and no budgets in this configuration"
_REDIS = "routers share nothing by Redis: each keeps its own view, so there is nothing to set"
_EJECT = "when a provider rests and for how long is junctor's own rule (docs/reliability.md)"
_KEYS = "keys of callers are junctor's own: junctor keys --help"
_DATABASE = "junctor's stores are set per process: JUNCTOR_DATABASE_URL"
_REWRITE = "junctor passes requests on as they are"
_BY_KIND = "a fallback is taken on any failure before the first byte, not by the kind of error"

REASONS: Mapping[str, str] = {
    **dict.fromkeys(("set_verbose", "json_logs", "debug_level", "LITELLM_LOG", "suppress_debug_info"), _LOGS),
    **dict.fromkeys(("callbacks", "success_callback", "failure_callback", "service_callbacks", "alerting"), _CALLBACK),
    **dict.fromkeys(("alerting_threshold", "alert_types", "alert_to_webhook_url", "alerting_args"), _CALLBACK),
    **dict.fromkeys(("turn_off_message_logging", "redact_user_api_key_info", "langfuse_default_tags"), _CALLBACK),
    **dict.fromkeys(("cache", "cache_params", "cache_responses", "cache_kwargs", "caching_groups"), _CACHE),
    **dict.fromkeys(("max_budget", "budget_duration", "provider_budget_config", "disable_spend_logs"), _BUDGET),
    **dict.fromkeys(("redis_host", "redis_port", "redis_password", "redis_url"), _REDIS),
    **dict.fromkeys(("allowed_fails", "allowed_fails_policy", "cooldown_time", "disable_cooldowns"), _EJECT),
    **dict.fromkeys(("retry_after", "retry_policy", "model_group_retry_policy"), _EJECT),
    **dict.fromkeys(("master_key", "custom_auth", "enable_jwt_auth", "litellm_jwtauth", "allowed_routes"), _KEYS),
    **dict.fromkeys(("default_team_settings", "default_internal_user_params", "key_generation_settings"), _KEYS),
    **dict.fromkeys(("database_url", "database_connection_pool_limit", "store_model_in_db"), _DATABASE),
    **dict.fromkeys(("allow_requests_on_db_unavailable", "proxy_batch_write_at"), _DATABASE),
    **dict.fromkeys(("drop_params", "modify_params", "additional_drop_params", "forward_client_headers"), _REWRITE),
    **dict.fromkeys(("context_window_fallbacks", "content_policy_fallbacks"), _BY_KIND),
    "enable_pre_call_checks": "junctor does not count tokens before a call",
    "enable_tag_filtering": "junctor does not choose targets by tags",
    "max_parallel_requests": "junctor limits a provider's calls (max_concurrency), not a caller's, in this file",
    "global_max_parallel_requests": "junctor limits a provider's calls (max_concurrency), not all at once",
    "request_timeout": "set it on junctor's routers: JUNCTOR_TOTAL_TIMEOUT (seconds)",
    "routing_strategy_args": "junctor's policies have no arguments",
    "completion_model": "a call without a model is refused",
    "default_litellm_params": "what all calls get is a provider's default_extra_body: give it to each deployment",
    "include": "another file: import it by itself",
    "environment_variables": "set them where junctor apply runs; secrets are taken from there",
    "background_health_checks": "junctor asks every provider for its models all the time: JUNCTOR_DISCOVERY_INTERVAL",
    "health_check_interval": "junctor asks every provider for its models all the time: JUNCTOR_DISCOVERY_INTERVAL",
}
"""Of keys whose reason is more than that there is no such thing."""

_NONE = "junctor has no such setting"
OFF = (None, False, "", 0)
"""Values that ask for nothing."""


def report_rest(report: Report, place: str, settings: Mapping[str, Any]) -> None:
    """Report settings that nothing is made of; those that are off are taken: there is nothing to do."""
    for key, value in settings.items():
        if value in OFF or value in ([], {}):
            report.taken(f"{place}.{key}", why="is off")
        else:
            report.lost(f"{place}.{key}", REASONS.get(key, _NONE))
