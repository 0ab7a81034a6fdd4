# syntax=docker/dockerfile:1
# One image for every service: `junctord SERVICE…` is what it runs. docs/deploy.md says how.
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/junctor
# The lock has every package with its hash, the build backend too: nothing else is asked of the index.
COPY requirements.lock ./
RUN /opt/junctor/bin/python -m pip install --no-deps --only-binary=:all: --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY junctor junctor
COPY services services
COPY gateway_http gateway_http
RUN /opt/junctor/bin/python -m pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /dist .
RUN /opt/junctor/bin/python -m pip install --no-deps --no-index --find-links /dist junctor \
 && /opt/junctor/bin/python -m pip uninstall --yes editables hatchling pathspec pluggy trove-classifiers pip

FROM python:${PYTHON}
ARG VERSION=0.3.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="junctor" \
      org.opencontainers.image.description="An inference gateway: typed gRPC services and an OpenAI-compatible HTTP edge" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python"
# The folder is for any user, as a volume may be mounted there for another one; what junctor makes in it is its own.
RUN groupadd --gid 10001 junctor \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/junctor --no-create-home --shell /usr/sbin/nologin junctor \
 && install --directory --owner 10001 --group 10001 --mode 1777 /var/lib/junctor
COPY --from=build /opt/junctor /opt/junctor
ENV PATH=/opt/junctor/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/junctor \
    JUNCTOR_DATA_DIR=/var/lib/junctor/data \
    JUNCTOR_HOST=0.0.0.0 \
    JUNCTOR_GRPC_HOST=0.0.0.0 \
    JUNCTOR_ADMIN_PORT=9464
WORKDIR /var/lib/junctor
USER 10001:10001
EXPOSE 8080 50051 50052 50053 50054 9464
STOPSIGNAL SIGTERM
# The port for operators, without the proxy that the environment may name for providers.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:9464/health/ready', timeout=4)"]
ENTRYPOINT ["junctord"]
