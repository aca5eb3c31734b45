"""A server's TLS transport with one read and one write for a short message each way.

Twisted's transport asks OpenSSL for more data until there is none, which costs an exception for
each piece of data. It collects writes until the next turn of the reactor, and then waits for the
socket to become writable. For a request and an answer of a few hundred bytes this is a fifth of the
front end's CPU time, and two turns of the reactor more for each answer.

This is the only module that uses private names of Twisted, those of `TLSMemoryBIOProtocol` and
`BufferingTLSTransport`; ``tests/security/test_tls_transport.py`` names the version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from twisted.internet.interfaces import ITransport

RECORD_HEADER_BYTES = 5
MAX_RECORD_BYTES = 2**14  # of plain text (RFC 8446 §5.1)
APPLICATION_DATA = 23


def record_bytes(header: bytes) -> int:
    """Return the length of the record that begins with these bytes (RFC 8446 §5.1)."""
    return RECORD_HEADER_BYTES + int.from_bytes(header[3:RECORD_HEADER_BYTES], "big")


class Records:
    """Follows a stream of TLS records, to know whether the last one is complete."""

    __slots__ = ("_header", "_missing")

    def __init__(self) -> None:
        self._header = b""
        self._missing = 0  # bytes of the record whose header is known

    @property
    def complete(self) -> bool:
        """Whether the next byte is the first one of a record."""
        return not self._missing and not self._header

    def feed(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            if self._missing:
                taken = min(self._missing, len(data) - start)
                self._missing -= taken
            else:
                taken = min(RECORD_HEADER_BYTES - len(self._header), len(data) - start)
                self._header += data[start : start + taken]
                if len(self._header) == RECORD_HEADER_BYTES:
                    self._missing = record_bytes(self._header) - RECORD_HEADER_BYTES
                    self._header = b""
            start += taken


class PromptTLS(BufferingTLSTransport):
    """A TLS transport that reads a single record at once, and has `write_now`."""

    def makeConnection(self, transport: ITransport) -> None:
        self._records = Records()
        # A TCP transport, or a wrapper around one.
        self._descriptor: Any = IReadWriteDescriptor(transport, None)
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Deliver received data.

        If the data is one record, a single call returns all that is in it. Any other data is left
        to Twisted, and a result other than data is handled as Twisted does.
        """
        records = self._records
        if not (
            records.complete
            and data[0] == APPLICATION_DATA
            and len(data) == record_bytes(data)
            and self._handshakeDone
            and not self._appSendBuffer
            and not self._lostTLSConnection
            and not self._aborted
        ):
            records.feed(data)
            super().dataReceived(data)
            return
        connection = self._tlsConnection
        connection.bio_write(data)
        try:
            plain = connection.recv(MAX_RECORD_BYTES)
        except (SSL.WantReadError, SSL.ZeroReturnError):
            self._flushReceiveBIO()
        except SSL.Error:
            self._tlsShutdownFinished(Failure())
        else:
            self.wrappedProtocol.dataReceived(plain)

    def write_now(self, data: bytes) -> None:
        """Write data, behind what was written before, and send it in this turn if possible."""
        self._aggregator.flush()
        TLSMemoryBIOProtocol.write(self, data)
        descriptor = self._descriptor
        # The result of `doWrite` is ignored. An error comes again when the reactor calls `doWrite`.
        # Only a closing connection returns that everything was sent.
        if descriptor is not None and not descriptor.disconnecting:
            descriptor.doWrite()
