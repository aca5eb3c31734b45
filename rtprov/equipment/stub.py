"""The stub of service A: answers after a delay, and misbehaves on demand.

The real A is not part of this project.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from rtprov.equipment.scenario import BUILT_IN, Rule
from rtprov.errors import EquipmentNotFound, InvalidBody, ProvisioningFailed
from rtprov.http.request import abort_connection, check_media_type, json_resource, read_body
from rtprov.http.responses import answer, answer_error, envelope
from rtprov.model import is_equipment_id
from rtprov.order_body import parse_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IReactorTime
    from twisted.web.resource import IResource

MAX_COUNTED_SERIALS = 100_000


class Stub:
    """The HTTP resource of A.

    `delay_s` is the time from a well-formed request to its answer. `rules` are checked before the
    built-in ones. With `honour_timeout`, a request whose ``timeoutInSeconds`` is shorter than the
    delay ends in 500 after that many seconds. `calls` counts the well-formed requests.
    """

    app = Klein()
    _log = Logger()

    def __init__(
        self, *, clock: IReactorTime, delay_s: float, honour_timeout: bool, rules: Sequence[Rule]
    ) -> None:
        self._clock = clock
        self._delay_s = delay_s
        self._honour_timeout = honour_timeout
        self._rules = (*rules, *BUILT_IN)
        self._counts: OrderedDict[tuple[int, str], int] = OrderedDict()
        self.calls = 0

    def resource(self) -> IResource:
        """Return the resource for a `rtprov.http.site.JsonSite`."""
        return json_resource(self.app)

    @app.handle_errors(Exception)
    def _on_error(self, request: IRequest, failure: Failure) -> bytes:
        return answer_error(request, failure)

    @app.route("/api/v1/equipment/cpe/<string(minlength=0):equipment_id>", methods=["POST"])
    async def _configure(self, request: IRequest, equipment_id: str) -> bytes:
        if not is_equipment_id(equipment_id):
            raise EquipmentNotFound
        check_media_type(request)
        try:
            order = parse_request(read_body(request))
        except InvalidBody:
            raise ProvisioningFailed from None  # A's contract has no other error for this
        self.calls += 1
        rule = self._rule_for(equipment_id)
        delay_s = self._delay_s if rule is None or rule.delay is None else rule.delay
        self._log.info("call {calls}: {equipment_id}", calls=self.calls, equipment_id=equipment_id)
        if self._honour_timeout and order.timeout_s < delay_s:
            await deferLater(self._clock, order.timeout_s)
            raise ProvisioningFailed
        await deferLater(self._clock, delay_s)
        return await self._answer(request, rule)

    def _rule_for(self, serial: str) -> Rule | None:
        """Return the first rule that matches and is not used up for this serial."""
        for number, rule in enumerate(self._rules):
            if rule.match.fullmatch(serial) and (
                rule.times is None or self._count(number, serial) <= rule.times
            ):
                return rule
        return None

    def _count(self, number: int, serial: str) -> int:
        count = self._counts.pop((number, serial), 0) + 1
        self._counts[number, serial] = count
        if len(self._counts) > MAX_COUNTED_SERIALS:
            self._counts.popitem(last=False)
        return count

    async def _answer(self, request: IRequest, rule: Rule | None) -> bytes:
        if rule is None or rule.answer == 200:
            return answer(request, 200, envelope(200, "success"))
        if rule.answer == 404:
            raise EquipmentNotFound
        if rule.answer == 500:
            raise ProvisioningFailed
        if rule.answer == 503:
            headers = {} if rule.retry_after is None else {"Retry-After": str(rule.retry_after)}
            return answer(request, 503, envelope(503, "Busy"), headers)
        if rule.answer == "garbage":
            return b"<garbage>"
        if rule.answer == "drop":
            abort_connection(request)
        await Deferred[None]()  # never fires; is cancelled when the client disconnects
        raise AssertionError("a Deferred that is never fired has fired")
