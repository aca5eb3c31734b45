"""Why TLS did not come about, in words: OpenSSL tells it in tuples."""

from __future__ import annotations

from OpenSSL import SSL

from rtprov.errors import RtprovError

_HINTS = {
    "certificate verify failed": "no CA of ours vouches for it, or it has expired",
    "wrong version number": "does the other side speak TLS at all?",
}


# X509_STORE_CTX_get_error(3): the numbers are part of OpenSSL's API, and pyOpenSSL has no names for
# them.
_REFUSALS = {
    2: "the certificate of a CA that signed {it} is missing",
    7: "{it} is not signed by the CA of that name that we trust (--ca)",
    9: "{it} is not valid yet",
    10: "{it} has expired",
    18: "{it} is self-signed, and is not among those that we trust (--ca)",
    19: "{it} is self-signed, and is not among those that we trust (--ca)",
    20: "no CA that we trust (--ca) has signed {it}, or an intermediate certificate is missing",
    21: "no CA that we trust (--ca) has signed {it}, or an intermediate certificate is missing",
    23: "{it} is revoked",
    24: "{it} is not a CA's, and has signed another",
    26: "{it} is not for servers (extended key usage)",
    47: "the CA may not sign certificates for this name (name constraints)",
    48: "the CA may not sign certificates for this name (name constraints)",
    66: "the key of {it} is too weak",
    67: "the key of {it} is too weak",
    68: "the signature of {it} is too weak",
    79: "{it} is not a CA's, and has signed another",
}


def reason_of_refusal(error: int, depth: int) -> str:
    """What OpenSSL objects to, in words: `error` is one of its X509_V_ERR numbers, `depth` is 0 for
    the server's own certificate.
    """
    it = "the certificate" if depth == 0 else "a CA's certificate in the chain"
    return _REFUSALS.get(error, "{it} was refused (OpenSSL error {error})").format(
        it=it, error=error
    )


class CertificateRefused(RtprovError):
    """A server's certificate is not valid, not for the host that was called, or cannot be read."""


def explain(error: BaseException) -> str | None:
    """A phrase for log and journal; None where it is not TLS that failed."""
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
