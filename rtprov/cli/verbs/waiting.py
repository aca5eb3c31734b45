"""``rtprov wait``: waits until tasks have ended, and shows how far they are."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import click
from attrs import define
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError
from twisted.internet.task import LoopingCall, deferLater

from rtprov.cli.api import Api
from rtprov.cli.failures import OutOfReach, Status, VerbFailed, status_of
from rtprov.cli.files import text_of
from rtprov.cli.process import complain
from rtprov.cli.progress import Progress
from rtprov.cli.session import Connected, Session, asks_service_b
from rtprov.cli.task_view import NAMES, columns, exit_status
from rtprov.cli.verbs.one_task import details_of, malformed, state_in, task_path

AT_ONCE = 20  # questions at the same time; service B has room for a thousand
WAIT_S = 20  # Prefer: wait
UNREACHABLE_FOR_S = 60.0
AGAIN_S = 1.0
REDRAW_S = 0.5


@define
class Waited:
    """A task that is waited for.

    `state` is the one in which it ended, or None. `refusal` is why service B does not answer for
    this task.
    """

    equipment: str
    task: str
    state: str | None = None
    refusal: VerbFailed | None = None


@click.command()
@click.argument("tasks", nargs=-1, metavar="EQUIPMENT TASK [EQUIPMENT TASK]…")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    help="The longest to wait; then the exit status is 6.  [default: no limit]",
)
@asks_service_b
def wait(session: Session, tasks: tuple[str, ...], timeout: float | None) -> None:
    """Wait until tasks have ended, and show them.

    Without arguments, or with -, reads lines with EQUIPMENT and TASK from standard input.

    JSON is an object for one task, and a list for several.

    Exit status: 0 if all have completed, 1 if one failed or was cancelled, 4 if there is no such
    task or service A does not know its device, 6 if --timeout was over first.
    """
    if not tasks and sys.stdin.isatty():
        raise click.UsageError("Missing argument 'EQUIPMENT TASK'.")
    words = list(tasks)
    if tasks in ((), ("-",)):
        words = text_of(sys.stdin.buffer.read(), "standard input", "tasks").split()
    if len(words) % 2:
        raise click.UsageError("expected pairs of EQUIPMENT and TASK")
    pairs = [Waited(*pair) for pair in zip(words[::2], words[1::2], strict=True)]

    async def work(connected: Connected) -> int:
        return await wait_for(session, connected, pairs, timeout)

    session.run(work)


async def wait_for(
    session: Session, connected: Connected, waited: list[Waited], timeout_s: float | None
) -> int:
    """Wait for all tasks, show them, and return the exit status.

    Raises `VerbFailed`; its status is `TIMED_OUT` after `timeout_s` seconds.
    """
    progress = Progress(session.errors, len(waited), connected.clock.seconds)
    redraw = LoopingCall(lambda: progress.show(_counts(waited)))
    redraw.clock = connected.clock
    waiting = Deferred.fromCoroutine(_all_ended(connected, waited, progress))
    if timeout_s is not None:
        waiting.addTimeout(timeout_s, connected.clock)
    if progress.visible:
        redraw.start(REDRAW_S)
    failed: VerbFailed | None = None
    try:
        await waiting
    except TimeoutError:
        left = sum(each.state is None and each.refusal is None for each in waited)
        failed = VerbFailed(
            f"{left} of {len(waited)} {'tasks' if len(waited) > 1 else 'task'} had not ended after"
            f" {timeout_s:g} s",
            Status.TIMED_OUT,
        )
    except VerbFailed as error:
        failed = error
    finally:
        if redraw.running:
            redraw.stop()
        progress.end()
    ended = [each for each in waited if each.state is not None]
    if ended or len(waited) != 1:
        await _show(session, connected.api, ended, single=len(waited) == 1)
    refusals = [each.refusal for each in waited if each.refusal is not None]
    for refusal in refusals:
        complain(str(refusal))
    if failed is not None:
        raise failed
    statuses = [exit_status([each.state or "" for each in ended])]
    statuses += [refusal.status for refusal in refusals]
    return min((each for each in statuses if each), default=Status.DONE)


def _counts(waited: Iterable[Waited]) -> Counter[str]:
    states = (each.state or ("unknown" if each.refusal else None) for each in waited)
    return Counter(state for state in states if state is not None)


async def _all_ended(connected: Connected, waited: list[Waited], progress: Progress) -> None:
    """Wait for each task, for `AT_ONCE` of them at the same time.

    The first error that is not about one task ends all.
    """
    places = DeferredSemaphore(AT_ONCE)
    running = [places.run(_begin, connected, each, progress) for each in waited]
    try:
        for each in running:
            await each
    finally:
        for each in running:
            each.addErrback(lambda failure: None)
            each.cancel()


def _begin(connected: Connected, waited: Waited, progress: Progress) -> Deferred[None]:
    return Deferred.fromCoroutine(_ended(connected, waited, progress))


async def _ended(connected: Connected, waited: Waited, progress: Progress) -> None:
    api, clock = connected.api, connected.clock
    waited.refusal = malformed(waited.equipment, waited.task)
    if waited.refusal is not None:
        return
    path = task_path(waited.equipment, waited.task)
    failing_since: float | None = None
    reached = False
    while True:
        asked_at = clock.seconds()
        try:
            answer = await api.ask(
                "GET",
                path,
                headers={"Prefer": f"wait={WAIT_S}"},
                within_s=WAIT_S + 15.0,
                accept=(404, 429, 500, 503),
            )
            state = state_in(answer.status, answer.document)
            if answer.status == 500 and state is None:  # not about the task
                raise OutOfReach(f"{api.url}: {answer.message}", sent=True)
        except OutOfReach as error:
            now = clock.seconds()
            failing_since = now if failing_since is None else failing_since
            reached = reached or error.sent
            if not reached or now - failing_since > UNREACHABLE_FOR_S:
                raise
            progress.say(str(error))
            await deferLater(clock, AGAIN_S)
            continue
        reached, failing_since = True, None
        if answer.status in (429, 503):
            progress.say(answer.message)
            await deferLater(clock, api.pause_s(answer) or AGAIN_S)
            continue
        if state is None:
            if answer.status < 300:  # service B says how the task is, or refuses
                api.part(answer.document, "code", int)
            status = status_of(answer.status)
            waited.refusal = VerbFailed(f"{waited.task}: {answer.message}", status)
            return
        if state != "running":
            waited.state = state
            return
        if clock.seconds() - asked_at < AGAIN_S:  # service B did not wait
            await deferLater(clock, api.pause_s(answer) or AGAIN_S)


async def _show(session: Session, api: Api, ended: list[Waited], *, single: bool) -> None:
    """Write the tasks that have ended, with their details if a worker still knows them."""
    writer = session.writer(columns(session.process.now()), names=NAMES, single=single)
    for each in ended:
        row: dict[str, Any] = {
            "taskId": each.task,
            "equipmentId": each.equipment,
            "state": each.state,
        }
        try:
            row = await details_of(api, each.equipment, each.task)
        except CancelledError:
            raise
        except VerbFailed:
            pass  # the state is known, and that is what counts
        writer.add(row)
    writer.end()
