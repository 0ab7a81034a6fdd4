"""The certificate of ``junctor up`` as the same process needs it: to call its own edge, and to say a URL that works."""

from __future__ import annotations

import ipaddress
import ssl

from services.runtime.certificates import KeyFiles, read_pair

_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME, <openssl/x509_vfy.h>: whether it has expired is for callers to mind."""


def trusting(files: KeyFiles) -> ssl.SSLContext:
    """Return a context for calls to this very process: it trusts this very certificate, for whatever name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    context.load_verify_locations(cadata=read_pair(files).chain.decode("ascii"))
    return context


def name_in(files: KeyFiles, host: str) -> str:
    """Return ``host`` if the certificate is for it, else a name that it is for; ``host`` if there is none."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(read_pair(files).chain)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return host
    hosts = [name for name in names.get_values_for_type(x509.DNSName) if "*" not in name]
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    if host in hosts or host in addresses:
        return host
    if _is_loopback(host) and "localhost" in hosts:
        return "localhost"
    return next(iter([*hosts, *addresses]), host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
