"""Name look-ups on threads that the process need not wait for. The tests decide when a thread's
look-up ends.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorTime,
    IResolutionReceiver,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from rtprov.errors import NotConnected, OutOfResources
from rtprov.network.names import (
    DEADLINE_S,
    KEPT_S,
    MAX_KEPT,
    MAX_THREADS,
    MAX_THREADS_PER_NAME,
    STUCK_AFTER_S,
    Address,
    Names,
)

A = ("a.example", [(socket.AF_INET6, ("2001:db8::1", 0, 0, 0)), (socket.AF_INET, ("192.0.2.1", 0))])


@implementer(IResolutionReceiver)
class Receiver:
    """Collects the results for Twisted."""

    def __init__(self) -> None:
        self.resolution: Any = None
        self.addresses: list[object] = []
        self.complete = 0

    def resolutionBegan(self, resolution: IHostResolution) -> None:
        self.resolution = resolution

    def addressResolved(self, address: object) -> None:
        assert self.resolution is not None
        self.addresses.append(address)

    def resolutionComplete(self) -> None:
        self.complete += 1


class LookUps(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.threads: list[Callable[[], None]] = []  # blocked look-ups
        self.asked: list[tuple[object, ...]] = []
        self.answers: dict[str, Any] = dict([A])
        self.names = Names(
            clock=cast("IReactorTime", self.clock),
            run_in_thread=self.threads.append,
            call_from_thread=lambda function, *arguments: function(*arguments),
            getaddrinfo=self.getaddrinfo,
        )

    def getaddrinfo(self, host: str, port: object, family: int, kind: int) -> list[tuple[Any, ...]]:
        """Stand in for the C library's function."""
        self.asked.append((host, family))
        answer = self.answers[host]
        if isinstance(answer, BaseException):
            raise answer
        return [(each, kind, 6, "", address) for each, address in answer]

    def unblock(self, which: int = 0) -> None:
        """End the look-up of one thread."""
        self.threads.pop(which)()

    def assert_not_connected(self, looking: Deferred[list[Address]], text: str) -> NotConnected:
        error = self.failureResultOf(looking, NotConnected).value
        self.assertIn(text, str(error))
        return cast("NotConnected", error)

    def test_found(self) -> None:
        """A name's addresses are in the C library's order. The reactor waits for nothing."""
        looking = self.names.look_up("a.example")
        self.assertNoResult(looking)
        self.unblock()
        self.assertEqual(
            self.successResultOf(looking),
            [IPv6Address("TCP", "2001:db8::1", 0, 0, 0), IPv4Address("TCP", "192.0.2.1", 0)],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_address(self) -> None:
        """The look-up of an address returns the address, and uses no thread."""
        for text, expected in (
            ("127.0.0.1", IPv4Address("TCP", "127.0.0.1", 0)),
            ("::1", IPv6Address("TCP", "::1", 0, 0, 0)),
            ("fe80::1%1", IPv6Address("TCP", "fe80::1", 0, 0, 1)),
        ):
            self.assertEqual(self.successResultOf(self.names.look_up(text)), [expected])
        self.assertEqual(self.threads, [])

    def test_shared(self) -> None:
        """Look-ups of the same name share a thread. Cancelling one does not affect the others."""
        first, second, third = (self.names.look_up("a.example") for _ in range(3))
        second.addErrback(lambda _: None).cancel()
        self.unblock()
        self.assertEqual(self.threads, [])
        self.assertEqual(self.successResultOf(first), self.successResultOf(third))

    def test_kept(self) -> None:
        """An answer is used for 30 s, for each family separately."""
        first = self.names.look_up("a.example")
        self.unblock()
        addresses = self.successResultOf(first)
        self.clock.advance(KEPT_S - 0.1)
        self.assertEqual(self.successResultOf(self.names.look_up("a.example")), addresses)
        self.assertEqual(self.threads, [])
        self.names.look_up("a.example", socket.AF_INET)
        self.unblock()
        self.clock.advance(0.1)
        self.names.look_up("a.example")
        self.assertEqual(len(self.threads), 1)

    def test_kept_answers_are_not_shared(self) -> None:
        """A caller may change the list that it gets."""
        first = self.names.look_up("a.example")
        self.unblock()
        self.successResultOf(first).clear()
        self.successResultOf(self.names.look_up("a.example")).clear()
        self.assertEqual(len(self.successResultOf(self.names.look_up("a.example"))), 2)

    def test_forgotten(self) -> None:
        """A name whose addresses cannot be reached is looked up again."""
        self.names.look_up("a.example")
        self.unblock()
        self.names.forget("a.example")
        self.names.forget("unknown.example")
        self.names.look_up("a.example")
        self.assertEqual(len(self.threads), 1)

    def test_errors_are_not_kept(self) -> None:
        """A name that was not found is looked up again."""
        self.answers["a.example"] = []
        looking = self.names.look_up("a.example")
        self.unblock()
        self.failureResultOf(looking, NotConnected)
        self.names.look_up("a.example")
        self.assertEqual(len(self.threads), 1)

    def test_many_names(self) -> None:
        """The number of kept answers is limited."""
        for number in range(MAX_KEPT + 1):
            self.answers[f"{number}.example"] = A[1]
            self.names.look_up(f"{number}.example")
            self.unblock()
        self.assertEqual(len(self.names._kept), 1)

    def test_given_up_meanwhile(self) -> None:
        """The callback of one look-up may cancel another."""
        first, second = self.names.look_up("a.example"), self.names.look_up("a.example")
        second.addErrback(lambda _: None)
        first.addCallback(lambda _: second.cancel())
        self.unblock()
        self.successResultOf(second)

    def test_late(self) -> None:
        """A look-up that does not end fails after its deadline, which starts for each caller with
        its call. Its later end has no effect.
        """
        first = self.names.look_up("a.example")
        self.clock.advance(DEADLINE_S - 1)
        second = self.names.look_up("a.example")
        self.clock.advance(1)
        self.assert_not_connected(
            first, "the name a.example was not found within 5 s: the name server does not answer"
        )
        self.assertNoResult(second)
        self.unblock()
        self.successResultOf(second)

    def test_not_found(self) -> None:
        """The C library's error is reported with the name. So is any unexpected error."""
        for answer, text in (
            (
                socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
                "the name a.example was not found: Name or service not known",
            ),
            ([], "the name a.example has no address"),
            (
                UnicodeError("label too long"),
                "the name a.example could not be looked up: UnicodeError: label too long",
            ),
        ):
            self.answers["a.example"] = answer
            looking = self.names.look_up("a.example")
            self.unblock()
            self.assertNotIsInstance(self.assert_not_connected(looking, text), OutOfResources)

    def test_shortage(self) -> None:
        """A look-up that fails because this machine has no files or memory left is reported as
        that, not as an error of the name.
        """
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
            self.answers["a.example"] = OSError(number, "no")
            looking = self.names.look_up("a.example")
            self.unblock()
            self.failureResultOf(looking, OutOfResources)

    def test_no_thread(self) -> None:
        """If no thread can be started, that is a shortage of this machine, and the next look-up may
        succeed.
        """
        threads, self.names._run_in_thread = self.threads.append, self.refuse
        looking = self.names.look_up("a.example")
        self.assertIn(
            "can't start new thread", str(self.failureResultOf(looking, OutOfResources).value)
        )
        self.names._run_in_thread = threads
        looking = self.names.look_up("a.example")
        self.unblock()
        self.successResultOf(looking)

    def refuse(self, function: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    def test_stuck(self) -> None:
        """A look-up that hangs for long is repeated on another thread, a few times. The first
        answer to any of them counts.
        """
        for number in range(MAX_THREADS_PER_NAME + 2):
            self.names.look_up("a.example").addErrback(lambda _: None)
            self.assertEqual(len(self.threads), min(number + 1, MAX_THREADS_PER_NAME))
            self.clock.advance(STUCK_AFTER_S)
        looking = self.names.look_up("a.example")
        self.unblock(-1)
        self.successResultOf(looking)

    def test_others(self) -> None:
        """A name whose look-up hangs does not delay other names."""
        for _ in range(500):
            self.names.look_up("a.example").addErrback(lambda _: None)
        self.answers["broker"] = A[1]
        looking = self.names.look_up("broker")
        self.unblock(1)
        self.successResultOf(looking)
        self.assertEqual(len(self.threads), 1)
        self.clock.advance(DEADLINE_S)

    def test_all_busy(self) -> None:
        """The number of threads is limited. If it is exceeded, that is a shortage of this
        machine.
        """
        for number in range(MAX_THREADS):
            self.names.look_up(f"{number}.example").addErrback(lambda _: None)
        self.failureResultOf(self.names.look_up("a.example"), OutOfResources)
        self.answers["0.example"] = []
        self.unblock()
        looking = self.names.look_up("a.example")
        self.unblock(-1)
        self.successResultOf(looking)
        self.clock.advance(DEADLINE_S)

    def test_for_twisted(self) -> None:
        """Twisted gets the same addresses, with its port and of the requested types. A failure
        gives no address.
        """
        verifyObject(IHostnameResolver, self.names)
        receiver = Receiver()
        self.names.resolveHostName(receiver, "a.example", 443)
        self.unblock()
        self.assertEqual(
            receiver.addresses,
            [IPv6Address("TCP", "2001:db8::1", 443, 0, 0), IPv4Address("TCP", "192.0.2.1", 443)],
        )
        self.assertEqual(receiver.complete, 1)
        for kinds, family in (
            ([IPv4Address], socket.AF_INET),
            ([IPv6Address], socket.AF_INET6),
            ([IPv4Address, IPv6Address], 0),
        ):
            self.names.forget("a.example")
            self.names.resolveHostName(Receiver(), "a.example", 443, kinds)
            self.unblock()
            self.assertEqual(self.asked[-1], ("a.example", family))
        receiver = Receiver()
        self.names.forget("a.example")
        self.names.resolveHostName(receiver, "a.example", 443).cancel()
        self.assertEqual((receiver.addresses, receiver.complete), ([], 1))
        self.unblock()
        self.assertEqual((receiver.addresses, receiver.complete), ([], 1))
