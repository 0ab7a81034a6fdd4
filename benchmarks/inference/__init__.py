"""junctor beside plain reverse proxies, under the same load in one run. See ``docs/benchmarks.md``."""
