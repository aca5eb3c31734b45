"""Turns OpenSSL's errors into readable phrases for logs and for a task's reason."""

from __future__ import annotations

from OpenSSL import SSL

from rtprov.errors import RtprovError

_HINTS = {
    "certificate verify failed": "it has expired, or no trusted CA has signed it",
    "wrong version number": "is the other side a TLS server?",
}


# The error numbers of X509_STORE_CTX_get_error(3). They are part of OpenSSL's API; pyOpenSSL has no
# names for them.
_REFUSALS = {
    2: "the certificate of a CA that signed {it} is missing",
    7: "{it} names a trusted CA (--ca), but is not signed by it",
    9: "{it} is not valid yet",
    10: "{it} has expired",
    18: "{it} is self-signed, and is not a trusted one (--ca)",
    19: "{it} is self-signed, and is not a trusted one (--ca)",
    20: "no trusted CA (--ca) has signed {it}, or an intermediate certificate is missing",
    21: "no trusted CA (--ca) has signed {it}, or an intermediate certificate is missing",
    23: "{it} has been revoked",
    24: "{it} is not a CA certificate, but has signed another one",
    26: "{it} is not for servers (extended key usage)",
    47: "the CA may not sign certificates for this name (name constraints)",
    48: "the CA may not sign certificates for this name (name constraints)",
    66: "the key of {it} is too weak",
    67: "the key of {it} is too weak",
    68: "the signature of {it} is too weak",
    79: "{it} is not a CA certificate, but has signed another one",
}


def reason_of_refusal(error: int, depth: int) -> str:
    """Return a phrase for an error that OpenSSL found in a server's certificate chain.

    `error` is an X509_V_ERR number. `depth` is 0 for the server's own certificate.
    """
    it = "the certificate" if depth == 0 else "a certificate in the chain"
    return _REFUSALS.get(error, "{it} was refused (OpenSSL error {error})").format(
        it=it, error=error
    )


class CertificateRefused(RtprovError):
    """A server's certificate is not valid, not for the called host, or cannot be parsed."""


def explain(error: BaseException) -> str | None:
    """Return a phrase for a TLS error; None if `error` is not a TLS error."""
    if isinstance(error, CertificateRefused):
        return f"TLS: {error}"
    if (
        not isinstance(error, SSL.Error)
        or not error.args
        or not isinstance(error.args[0], list)
        or not error.args[0]
    ):
        return None
    reasons = [str(entry[-1]) for entry in error.args[0]]
    return "TLS: " + "; ".join(
        f"{reason} ({_HINTS[reason]})" if reason in _HINTS else reason for reason in reasons
    )
