"""``rtprov order``."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from rtprov.cli.api import API, Api
from rtprov.cli.failures import OutOfReach, Status, VerbFailed
from rtprov.cli.files import text_of
from rtprov.cli.output import Column
from rtprov.cli.session import Connected, Session, asks_service_b
from rtprov.cli.verbs.waiting import Waited, wait_for

MAX_BODY_BYTES = 64 * 1024


@click.command()
@click.argument("equipment")
@click.option(
    "--timeout-in-seconds",
    type=int,
    default=60,
    show_default=True,
    metavar="S",
    help="The longest that service A waits for the device.",
)
@click.option("--username", metavar="NAME", help="Parameter username.")
@click.option(
    "--password-file",
    type=click.File("rb"),
    metavar="FILE",
    help="File with the parameter password; - is standard input.",
)
@click.option("--vlan", type=int, metavar="N", help="Parameter vlan.")
@click.option("--interfaces", metavar="N,N…", help="Parameter interfaces, such as 1,2,3.")
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="KEY=VALUE",
    help="A further parameter. VALUE is sent as JSON if it is JSON, else as a string. A number"
    " whose text JSON would change, such as 1.10, is sent as a string. Repeatable.",
)
@click.option(
    "--body",
    type=click.File("rb"),
    metavar="FILE",
    help="File with the whole JSON body, in place of the options above; - is standard input.",
)
@click.option("--idempotency-key", metavar="KEY", help="Makes it safe to order again.")
@click.option("--wait", "waits", is_flag=True, help="Wait until the task has ended.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    help="With --wait: the longest to wait.  [default: no limit]",
)
@asks_service_b
def order(session: Session, equipment: str, **options: Any) -> None:
    """Order a task for the device EQUIPMENT, and print its id.

    A password belongs into a file: other users see the command lines of processes. Without
    --idempotency-key, an order whose answer was lost is not sent again.
    """
    body, key = _body(options), options["idempotency_key"]

    async def work(connected: Connected) -> int:
        task = await _submit(connected.api, equipment, body, key)
        row = {"taskId": task, "equipmentId": equipment}
        if not options["waits"]:
            columns = [Column("", lambda row: row["taskId"])]
            writer = session.writer(columns, single=True, headed=False)
            writer.add(row)
            writer.end()
            return Status.DONE
        if session.format == "table":
            click.echo(task, err=True)
        waited = [Waited(equipment, task)]
        return await wait_for(session, connected, waited, options["timeout"])

    session.run(work)


async def _submit(api: Api, equipment: str, body: bytes, key: str | None) -> str:
    headers = {} if key is None else {"Idempotency-Key": key}
    path = f"{API}/equipment/cpe/{quote(equipment, safe='')}"
    try:
        answer = await api.ask("POST", path, body=body, headers=headers)
        return api.part(answer.document, "taskId", str)
    except OutOfReach as error:
        if not error.sent:
            raise
        raise OutOfReach(
            f"{error}; the order may have been accepted: look at `rtprov device {equipment}`"
            " before you order again"
        ) from None


def _body(options: dict[str, Any]) -> bytes:
    """Return the body of the order. Raises `VerbFailed` if the options make none."""
    parts = {name: options[name] for name in ("username", "vlan") if options[name] is not None}
    if options["password_file"] is not None:
        content = options["password_file"].read()
        parts["password"] = text_of(content, "--password-file", "password").rstrip("\r\n")
    if options["interfaces"] is not None:
        parts["interfaces"] = _interfaces(options["interfaces"])
    for each in options["parameters"]:
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise VerbFailed(f"--parameter: expected KEY=VALUE, not {name}", Status.USAGE)
        if name == "password":
            raise VerbFailed(
                "--parameter password=…: others can read it; use --password-file", Status.USAGE
            )
        if name in parts:
            raise VerbFailed(f"--parameter: {name} is given twice", Status.USAGE)
        parts[name] = _value(name, value)
    if options["body"] is None:
        if not parts:
            raise VerbFailed("give at least one parameter, or --body FILE", Status.USAGE)
        document = {
            "timeoutInSeconds": options["timeout_in_seconds"],
            "parameters": [{name: value} for name, value in parts.items()],
        }
        try:
            return json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise VerbFailed("a parameter is not valid UTF-8", Status.USAGE) from None
    if parts:
        raise VerbFailed("--body is the whole body: give no parameters beside it", Status.USAGE)
    body: bytes = options["body"].read(MAX_BODY_BYTES + 1)
    return body.removeprefix(codecs.BOM_UTF8)


def _interfaces(text: str) -> list[int]:
    try:
        return [int(each) for each in text.replace(",", " ").split()]
    except ValueError:
        raise VerbFailed("--interfaces: expected numbers such as 1,2,3", Status.USAGE) from None


def _value(name: str, text: str) -> object:
    """Return the value of the parameter `name`: JSON, or else the text itself.

    A number is a number if JSON writes it with the same text, otherwise a string: 1.10 is often a
    version, and 1e400 does not fit. NaN and Infinity are no JSON.
    """

    def number(digits: str, kind: Callable[[str], float]) -> object:
        value = kind(digits)
        return value if json.dumps(value) == digits else digits

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(each for each, n in Counter(each for each, _ in pairs).items() if n > 1)
            raise VerbFailed(f"--parameter {name}: {twice} is given twice", Status.USAGE)
        return made

    def no_constant(word: str) -> object:
        raise ValueError(f"{word} is no JSON")

    try:
        value: object = json.loads(
            text,
            parse_int=lambda digits: number(digits, int),
            parse_float=lambda digits: number(digits, float),
            parse_constant=no_constant,
            object_pairs_hook=unique,
        )
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, (int, float)) and text != text.strip() else value
