"""Translates :mod:`junctor.errors` to and from ``google.rpc.Status``.

The gRPC code of a reason is a row in ``CODES``; one row, ``UPSTREAM_REJECTED``, depends on the provider's HTTP
status. A status without ``ErrorInfo`` (a proxy's, grpc's own) becomes the class that its code fits best.
"""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from junctor import errors
from junctor.errors import JunctorError

CODES: dict[str, grpc.StatusCode] = {
    "INVALID_FIELD": grpc.StatusCode.INVALID_ARGUMENT,
    "MALFORMED_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "RESOURCE_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "RESOURCE_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "WORKSPACE_MISSING": grpc.StatusCode.FAILED_PRECONDITION,
    "STALE_VERSION": grpc.StatusCode.ABORTED,
    "PROTECTED_RESOURCE": grpc.StatusCode.FAILED_PRECONDITION,
    "SECRET_MISSING": grpc.StatusCode.FAILED_PRECONDITION,
    "CREDENTIAL_UNAVAILABLE": grpc.StatusCode.FAILED_PRECONDITION,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "NO_ROUTE": grpc.StatusCode.NOT_FOUND,
    "PROVIDER_NOT_READY": grpc.StatusCode.NOT_FOUND,
    "OVERLOADED": grpc.StatusCode.UNAVAILABLE,
    "PEER_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "NOT_READY": grpc.StatusCode.UNAVAILABLE,
    "WATCH_EXPIRED": grpc.StatusCode.OUT_OF_RANGE,
    "WATCHER_TOO_SLOW": grpc.StatusCode.ABORTED,
    "TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "LIMIT_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "REVISION_NOT_REACHED": grpc.StatusCode.UNAVAILABLE,
    "STORE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "UPSTREAM_UNREACHABLE": grpc.StatusCode.UNAVAILABLE,
    "UPSTREAM_TIMEOUT": grpc.StatusCode.DEADLINE_EXCEEDED,
    "UPSTREAM_INVALID": grpc.StatusCode.UNAVAILABLE,
    "UPSTREAM_REJECTED": grpc.StatusCode.UNAVAILABLE,
    "STREAM_BROKEN": grpc.StatusCode.DATA_LOSS,
    "ADDRESS_REFUSED": grpc.StatusCode.FAILED_PRECONDITION,
    "NOT_SUPPORTED": grpc.StatusCode.UNIMPLEMENTED,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}

_FALLBACK: dict[grpc.StatusCode, type[JunctorError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.MalformedRequest,
    grpc.StatusCode.NOT_FOUND: errors.ResourceNotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.ResourceExists,
    grpc.StatusCode.ABORTED: errors.StaleVersion,
    grpc.StatusCode.OUT_OF_RANGE: errors.WatchExpired,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAVAILABLE: errors.PeerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.PeerUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.TooLarge,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotSupported,
}


def code_of(error: JunctorError) -> grpc.StatusCode:
    """Return the gRPC status code that the error travels as."""
    if isinstance(error, errors.UpstreamRejected):
        status = int(error.metadata.get("status", "500"))
        if status == 429:
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        return grpc.StatusCode.FAILED_PRECONDITION if status < 500 else grpc.StatusCode.UNAVAILABLE
    return CODES[error.reason]


def to_status(error: JunctorError) -> status_pb2.Status:
    """Write the error as ``google.rpc.Status`` with ErrorInfo and whatever else is true of it."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=error.domain, metadata=error.metadata)
    details: list[object] = [info]
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.rule)
        details.append(bad)
    if error.resource is not None:
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type=error.resource.kind, resource_name=error.resource.name, description=error.message
            )
        )
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(retry)
    status = status_pb2.Status(code=code_of(error).value[0], message=error.message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def from_status(status: status_pb2.Status) -> JunctorError:
    """Rebuild the error that a ``google.rpc.Status`` carries."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    resource = error_details_pb2.ResourceInfo()
    retry = error_details_pb2.RetryInfo()
    found: dict[str, Any] = {detail.TypeName(): detail for detail in status.details}
    for message in (info, bad, resource, retry):
        if (packed := found.get(message.DESCRIPTOR.full_name)) is not None:
            packed.Unpack(message)
    code = _code(status.code)
    cls = errors.BY_REASON.get(info.reason) or _FALLBACK.get(code, errors.InternalError)
    return cls(
        status.message,
        domain=info.domain or errors.DOMAIN,
        metadata=dict(info.metadata),
        violations=tuple(errors.FieldViolation(v.field, v.description) for v in bad.field_violations),
        resource=errors.ResourceRef(resource.resource_type, resource.resource_name) if resource.resource_name else None,
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )


def from_rpc_error(error: grpc.RpcError) -> JunctorError:
    """Rebuild the error of a failed call, sync or ``grpc.aio``."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # code and details disagree: a proxy rewrote one of them
        status = None
    if status is None:
        code, text = _code_and_text(error)
        number = code.value[0] if isinstance(code, grpc.StatusCode) else code_pb2.UNKNOWN
        status = status_pb2.Status(code=number, message=text)
    return from_status(status)


def _code_and_text(error: grpc.RpcError) -> tuple[object, str]:
    code = error.code() if hasattr(error, "code") else None
    text = error.details() if hasattr(error, "details") else None
    return code, text or "the call failed"


def _code(number: int) -> grpc.StatusCode:
    for code in grpc.StatusCode:
        if code.value[0] == number:
            return code
    return grpc.StatusCode.UNKNOWN
