"""The table of layers, and that every module keeps to it. Source is only parsed: nothing of rtprov is imported here."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent


@attrs.frozen
class Layer:
    """One row of the table.

    `modules` are the row's own; ``"package.*"`` stands for a package and all in it, whose modules may import one another. Otherwise a
    module may import, of its own row, those that stand before it. `sees` names rows above, or single modules of theirs. `outside` are the
    packages from elsewhere that may be imported at run time (for type hints any may); None stands for any.
    """

    name: str
    modules: tuple[str, ...]
    sees: tuple[str, ...] = ()
    outside: frozenset[str] | None = None
    reactor: bool = False

    def position(self, module: str) -> int | None:
        """Where in the row `module` stands; None where it does not belong to it."""
        for position, pattern in enumerate(self.modules):
            package = pattern.removesuffix(".*")
            if module == package or (pattern != package and module.startswith(package + ".")):
                return position
        return None


LAYERS = (
    Layer("package", ("rtprov",), outside=frozenset()),
    Layer("values", ("rtprov.errors", "rtprov.model"), outside=frozenset({"attrs"})),
    Layer(
        "forms",
        (
            "rtprov.body",
            "rtprov.wire",
            "rtprov.markers",
            "rtprov.inquiry",
            "rtprov.documents",
            "rtprov.query",
            "rtprov.seal",
            "rtprov.interfaces",
        ),
        sees=("values",),
        outside=frozenset({"attrs", "cryptography", "msgspec"}),
    ),
    Layer(
        "rules",
        (
            "rtprov.clocks",
            "rtprov.record",
            "rtprov.retelling",
            "rtprov.withheld",
            "rtprov.backlog",
            "rtprov.forecast",
            "rtprov.details",
            "rtprov.store",
            "rtprov.open_tasks",
            "rtprov.lanes",
            "rtprov.breaker",
            "rtprov.reachability",
            "rtprov.limits",
        ),
        sees=("values",),
        outside=frozenset({"attrs"}),
    ),
    Layer(
        "hosts",
        ("rtprov.hosts", "rtprov.shortages", "rtprov.names"),
        sees=("rtprov.errors",),
        outside=frozenset({"attrs", "service_identity", "twisted", "zope"}),
    ),
    Layer("amqp", ("rtprov.amqp.*",), sees=("package", "rtprov.errors", "rtprov.hosts")),
    Layer(
        "broker",
        ("rtprov.broker.*",),
        sees=("package", "rtprov.errors", *(f"rtprov.amqp.{name}" for name in ("fields", "codec", "framing", "heartbeat", "transport"))),
    ),
    Layer(
        "edges",
        (
            "rtprov.tls",
            "rtprov.tls_client",
            "rtprov.connecting",
            "rtprov.tls_server",
            "rtprov.proxied",
            "rtprov.tokens",
            "rtprov.access",
            "rtprov.audit",
            "rtprov.answers",
            "rtprov.head",
            "rtprov.refusals",
            "rtprov.request",
            "rtprov.origin",
            "rtprov.http",
            "rtprov.certs",
            "rtprov.key_file",
        ),
        sees=("package", "values", "rtprov.body", "rtprov.seal", "rtprov.limits", "rtprov.amqp.tls_failures", "hosts"),
    ),
    Layer(
        "roles",
        (
            "rtprov.equipment_answers",
            "rtprov.equipment",
            "rtprov.pace",
            "rtprov.appending",
            "rtprov.journal",
            "rtprov.journal_reader",
            "rtprov.copies",
            "rtprov.status",
            "rtprov.inquiries",
            "rtprov.first_key",
            "rtprov.shared_keys",
            "rtprov.missing_keys",
            "rtprov.ends",
            "rtprov.orders",
            "rtprov.health",
            "rtprov.openapi",
            "rtprov.docspage",
            "rtprov.deadletters",
            "rtprov.gate",
            "rtprov.presence",
            "rtprov.quarantine",
            "rtprov.jobs",
            "rtprov.attempts",
            "rtprov.failures",
            "rtprov.renewals",
            "rtprov.worker",
            "rtprov.census",
            "rtprov.journal_keeper",
            "rtprov.resharding",
            "rtprov.scenario",
            "rtprov.stub",
            "rtprov.finals",
            "rtprov.frontend",
        ),
        sees=("package", "values", "forms", "rules", "hosts", "amqp", "edges"),
    ),
    Layer(
        "assembly",
        ("rtprov.tap.*", "rtprov.shards"),
        sees=("package", "values", "forms", "rules", "hosts", "amqp", "broker", "edges", "roles"),
        reactor=True,
    ),
    Layer("plugin", ("twisted.plugins.rtprov_plugin",), outside=frozenset({"twisted"})),
)

FENCED = {"txamqp": "rtprov.amqp._txamqp"}
"""Packages that only one module may import."""


@attrs.frozen
class Import:
    """`target` is a module or a name in one; `for_types` tells that it is only imported for type hints."""

    target: str
    line: int
    for_types: bool


def layer_of(module: str) -> tuple[int, int] | None:
    """Row and position of a module in the table."""
    for row, layer in enumerate(LAYERS):
        position = layer.position(module)
        if position is not None:
            return row, position
    return None


def imports(tree: ast.AST, package: str, for_types: bool = False) -> Iterator[Import]:
    """All that a module imports, wherever in it. `package` is what its relative imports start from."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, for_types)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1] if node.level else [])
            source = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                yield Import(f"{source}.{alias.name}", node.lineno, for_types)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from imports(ast.Module(node.body, []), package, for_types=True)
            yield from imports(ast.Module(node.orelse, []), package, for_types)
        else:
            yield from imports(node, package, for_types)


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def violations(sources: Mapping[str, str]) -> list[str]:
    """What breaks the table, one line each; `sources` maps paths below the project's root to their text."""
    modules = {module_name(path) for path in sources}
    found = []
    for path, text in sorted(sources.items()):
        module = module_name(path)
        if layer_of(module) is None:
            found.append(f"{path}: {module} stands in no layer")
            continue
        package = module if path.endswith("/__init__.py") else module.rpartition(".")[0]
        for each in imports(ast.parse(text, path), package):
            reason = objection(module, each, modules)
            if reason is not None:
                found.append(f"{path}:{each.line}: {reason}")
    return found


def objection(module: str, each: Import, modules: set[str]) -> str | None:
    """Why `module` may not import this; None where it may."""
    place = layer_of(module)
    assert place is not None
    layer = LAYERS[place[0]]
    if f"{each.target}.".startswith("twisted.internet.reactor."):
        return None if layer.reactor else f"{module} ({layer.name}) may not import the reactor"
    top = each.target.partition(".")[0]
    if top in FENCED and module != FENCED[top]:
        return f"{module} ({layer.name}) may not import {each.target}: only {FENCED[top]} may"
    if top != "rtprov":
        allowed = each.for_types or layer.outside is None or top in layer.outside or top in sys.stdlib_module_names
        return None if allowed else f"{module} ({layer.name}) may not import {each.target}"
    target = each.target if each.target in modules else each.target.rpartition(".")[0] or each.target
    target_place = layer_of(target)
    if target not in modules or target_place is None:
        return f"{module} ({layer.name}) imports {each.target}, which is no module of ours"
    if target_place[0] == place[0]:
        position = layer.modules[place[1]]
        seen = target_place[1] < place[1] or (target_place[1] == place[1] and position.endswith(".*"))
    else:
        seen = LAYERS[target_place[0]].name in layer.sees or target in layer.sees
    return None if seen else f"{module} ({layer.name}) may not import {target} ({LAYERS[target_place[0]].name})"


def project() -> dict[str, str]:
    files = [*(ROOT / "rtprov").rglob("*.py"), *(ROOT / "twisted").rglob("*.py")]
    return {file.relative_to(ROOT).as_posix(): file.read_text("utf-8") for file in files}


class Project(SynchronousTestCase):
    def test_every_module_keeps_to_the_table(self) -> None:
        """Each module stands in a layer and imports only what its layer sees; only the assembly imports the reactor."""
        sources = project()
        self.assertIn("rtprov/model.py", sources)
        self.assertIn("twisted/plugins/rtprov_plugin.py", sources)
        broken = violations(sources)
        self.assertEqual(broken, [], "\n" + "\n".join(broken))

    def test_what_mypy_is_told_to_ignore(self) -> None:
        """Each line that mypy is told to ignore says why."""
        silent = [
            f"{path}:{number}"
            for path, text in project().items()
            for number, line in enumerate(text.splitlines(), 1)
            if "# type: ignore" in line and not re.search(r"# type: ignore\[[a-z,-]+\] # \w", line)
        ]
        self.assertEqual(silent, [])

    def test_every_row_stands(self) -> None:
        """Each module of the table exists: a row that is left over would check nothing."""
        modules = {module_name(path) for path in project()}
        self.assertEqual([name for layer in LAYERS for name in layer.modules if name.removesuffix(".*") not in modules], [])

    def test_rows_see_only_rows_above(self) -> None:
        """No row is allowed to see itself, a row below, or what is not in the table."""
        for row, layer in enumerate(LAYERS):
            names = {above.name for above in LAYERS[:row]}
            for seen in layer.sees:
                place = layer_of(seen)
                self.assertTrue(seen in names or (place is not None and place[0] < row), f"{layer.name} sees {seen}")


class Checker(SynchronousTestCase):
    """The check itself, on sources that are made up."""

    OTHERS = dict.fromkeys(
        (
            "rtprov/__init__.py",
            "rtprov/errors.py",
            "rtprov/model.py",
            "rtprov/wire.py",
            "rtprov/body.py",
            "rtprov/store.py",
            "rtprov/frontend.py",
            "rtprov/amqp/__init__.py",
            "rtprov/amqp/framing.py",
            "rtprov/amqp/topology.py",
            "rtprov/broker/__init__.py",
            "rtprov/broker/queues.py",
        ),
        "",
    )

    def check(self, path: str, text: str) -> list[str]:
        return violations({**self.OTHERS, path: text})

    def test_allowed(self) -> None:
        """Rows above, one's own package, modules before oneself in the row, and the standard library may be imported."""
        self.assertEqual(self.check("rtprov/wire.py", "import json, msgspec\nfrom rtprov.body import x\nfrom rtprov import errors"), [])
        self.assertEqual(
            self.check("rtprov/broker/server.py", "from rtprov.broker import queues\nfrom rtprov.amqp.framing import Frame"), []
        )
        self.assertEqual(self.check("rtprov/broker/server.py", "from . import queues\nfrom ..errors import AmqpError"), [])
        self.assertEqual(self.check("rtprov/tap/stub.py", "def run():\n    from twisted.internet import reactor"), [])
        self.assertEqual(self.check("rtprov/store.py", "if TYPE_CHECKING:\n    from twisted.internet.defer import Deferred"), [])

    def test_row_below(self) -> None:
        """A row below may not be, in whatever form it is imported; the message names file, line and import."""
        expected = ["rtprov/store.py:2: rtprov.store (rules) may not import rtprov.frontend (roles)"]
        for statement in (
            "import rtprov.frontend",
            "import rtprov.frontend as f",
            "from rtprov import frontend",
            "from rtprov.frontend import Frontend",
            "from . import frontend",
            "from .frontend import Frontend",
            "def f(): import rtprov.frontend",
            "if TYPE_CHECKING: import rtprov.frontend",
            "if typing.TYPE_CHECKING: import json\nelse: import rtprov.frontend",
        ):
            found = self.check("rtprov/store.py", "\n" + statement)
            self.assertEqual([line.replace(":3:", ":2:") for line in found], expected, statement)

    def test_tasks_are_no_business_of_amqp_and_broker(self) -> None:
        """AMQP and the broker see errors and framing, nothing that knows of tasks."""
        self.assertEqual(
            self.check("rtprov/amqp/topology.py", "from rtprov.model import Task"),
            ["rtprov/amqp/topology.py:1: rtprov.amqp.topology (amqp) may not import rtprov.model (values)"],
        )
        self.assertEqual(
            self.check("rtprov/broker/queues.py", "import rtprov.wire\nimport rtprov.amqp.topology"),
            [
                "rtprov/broker/queues.py:1: rtprov.broker.queues (broker) may not import rtprov.wire (forms)",
                "rtprov/broker/queues.py:2: rtprov.broker.queues (broker) may not import rtprov.amqp.topology (amqp)",
            ],
        )

    def test_own_row(self) -> None:
        """Of one's own row, only what stands before may be imported."""
        self.assertEqual(
            self.check("rtprov/body.py", "import rtprov.wire"), ["rtprov/body.py:1: rtprov.body (forms) may not import rtprov.wire (forms)"]
        )

    def test_reactor(self) -> None:
        """The reactor may not be imported below the assembly, in whatever form."""
        for statement in (
            "from twisted.internet import reactor",
            "import twisted.internet.reactor",
            "from twisted.internet.reactor import run",
        ):
            self.assertEqual(
                self.check("rtprov/frontend.py", statement), ["rtprov/frontend.py:1: rtprov.frontend (roles) may not import the reactor"]
            )

    def test_packages_from_elsewhere(self) -> None:
        """Rules know no Twisted, and txAMQP stays in its fence."""
        self.assertEqual(
            self.check("rtprov/store.py", "from twisted.internet.defer import Deferred"),
            ["rtprov/store.py:1: rtprov.store (rules) may not import twisted.internet.defer.Deferred"],
        )
        self.assertEqual(
            self.check("rtprov/amqp/framing.py", "import txamqp.client"),
            ["rtprov/amqp/framing.py:1: rtprov.amqp.framing (amqp) may not import txamqp.client: only rtprov.amqp._txamqp may"],
        )

    def test_in_no_layer(self) -> None:
        """A module that nobody has put into the table is an error, and so is importing one that is not there."""
        self.assertEqual(self.check("rtprov/helpers.py", ""), ["rtprov/helpers.py: rtprov.helpers stands in no layer"])
        self.assertEqual(
            self.check("rtprov/store.py", "import rtprov.gone.too"),
            ["rtprov/store.py:1: rtprov.store (rules) imports rtprov.gone.too, which is no module of ours"],
        )
