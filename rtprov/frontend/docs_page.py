"""The page ``/docs``: the OpenAPI document as one HTML page without scripts or external files."""

from __future__ import annotations

import functools
import json
from html import escape
from typing import Any

from rtprov.frontend.openapi import document

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
h2 { margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; overflow-wrap: anywhere }
h2 b { background: #246; color: #fff; padding: 0 .4rem; border-radius: .2rem; font-size: .8em }
table { border-collapse: collapse }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0 }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { background: #f4f4f4; padding: .6rem; overflow-x: auto }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 } pre { background: #262626 }
}
"""


@functools.cache
def page() -> bytes:
    """Return the page, encoded in UTF-8. It is built once."""
    described = document()
    operations = "".join(
        _operation(method, path, item[method], item.get("parameters", []))
        for path, item in described["paths"].items()
        for method in item
        if method != "parameters"
    )
    schemas = "".join(
        _schema(name, schema) for name, schema in described["components"]["schemas"].items()
    )
    info = described["info"]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport"'
        ' content="width=device-width">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])}"
        f" {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
        '<p>OpenAPI document: <a href="/openapi.json">/openapi.json</a></p>'
        f"{operations}<h2>Schemas</h2>{schemas}</body></html>"
    ).encode()


def _operation(
    method: str, path: str, operation: dict[str, Any], shared: list[dict[str, Any]]
) -> str:
    parameters = [*shared, *operation.get("parameters", [])]
    rows = "".join(_parameter(each) for each in parameters)
    body = ""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        body = (
            f"<h3>Request body</h3><p>{_name(content['schema'])}, for"
            f" example:</p><pre>{escape(json.dumps(content['example']))}</pre>"
        )
    answers = "".join(
        f"<tr><td>{status}<td>{escape(response['description'])}<td>{_schemas_of(response)}"
        for status, response in sorted(operation["responses"].items())
    )
    return (
        f'<h2 id="{escape(operation["operationId"])}"><b>{method.upper()}</b>'
        f" <code>{escape(path)}</code></h2>"
        f"<p>{escape(operation['summary'])}</p>"
        + (f"<h3>Parameters</h3><table>{rows}</table>" if rows else "")
        + f"{body}<h3>Responses</h3><table>{answers}</table>"
    )


def _parameter(parameter: dict[str, Any]) -> str:
    required = "required" if parameter["required"] else ""
    pattern = escape(parameter["schema"].get("pattern", ""))
    return (
        f"<tr><td><code>{escape(parameter['name'])}</code><td>{parameter['in']}"
        f"<td>{escape(parameter['description'])}<td>{required}<td><code>{pattern}</code>"
    )


def _schemas_of(response: dict[str, Any]) -> str:
    schemas = [content["schema"] for content in response.get("content", {}).values()]
    return ", ".join(_name(each) for each in schemas if "$ref" in each)


def _name(schema: dict[str, Any]) -> str:
    name = escape(schema["$ref"].rpartition("/")[2])
    return f'<a href="#{name}">{name}</a>'


def _schema(name: str, schema: dict[str, Any]) -> str:
    text = escape(
        json.dumps(
            {key: schema[key] for key in schema if key not in ("title", "description")}, indent=1
        )
    )
    description = escape(schema.get("description", ""))
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{description}</p><pre>{text}</pre>'
