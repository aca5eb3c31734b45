"""Why TLS did not come about, in words: OpenSSL tells it in tuples."""

from __future__ import annotations

from OpenSSL import SSL

from rtprov.errors import RtprovError

_HINTS = {
    "certificate verify failed": "no CA of ours vouches for it, or it has expired",
    "wrong version number": "does the other side speak TLS at all?",
}


class CertificateRefused(RtprovError):
    """A server's certificate is not for the host that was called, or cannot be read."""


def explain(error: BaseException) -> str | None:
    """A phrase for log and journal; None where it is not TLS that failed."""
    if isinstance(error, CertificateRefused):
        return f"TLS: {error}"
    if not isinstance(error, SSL.Error) or not error.args or not isinstance(error.args[0], list) or not error.args[0]:
        return None
    reasons = [str(entry[-1]) for entry in error.args[0]]
    return "TLS: " + "; ".join(f"{reason} ({_HINTS[reason]})" if reason in _HINTS else reason for reason in reasons)
