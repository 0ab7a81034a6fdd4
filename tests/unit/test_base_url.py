"""Where a path of a provider lies, given its base URL."""

import pytest

from services.runtime.base_url import join


@pytest.mark.parametrize(
    ("host_url", "path", "prefix", "url"),
    [
        ("http://h", "v1/models", None, "http://h/v1/models"),
        ("http://h/", "v1/models", None, "http://h/v1/models"),
        ("http://h/v1", "v1/models", None, "http://h/v1/models"),
        ("http://h/v1/", "v1/models", None, "http://h/v1/models"),
        ("http://h/v1", "models", None, "http://h/v1/models"),
        ("http://h/v1", "v1/v1/x", None, "http://h/v1/v1/x"),
        ("http://h/av1", "v1/models", None, "http://h/av1/v1/models"),
        ("http://h", "v1/models", "", "http://h/models"),
        ("http://h", "v1/models", "/v1beta/openai/", "http://h/v1beta/openai/models"),
        ("http://h/v1", "v1/models", "/v1", "http://h/v1/v1/models"),
        ("http://h", "health", "/v1beta", "http://h/health"),
    ],
)
def test_one_version_prefix_is_dropped_or_replaced(host_url, path, prefix, url):
    assert join(host_url, path, api_base_path=prefix) == url
