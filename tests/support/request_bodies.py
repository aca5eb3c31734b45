"""Request bodies that are accepted, and request bodies that are refused, with the reason."""

from __future__ import annotations

from tests.support.front import BODY

TIMEOUT = b'"timeoutInSeconds": 14'
VLAN = "an integer from 1 to 4094"
LIST = "a list of integers of 0 or more"


def body(parameters: str, timeout: str = "14") -> bytes:
    return f'{{"timeoutInSeconds": {timeout}, "parameters": {parameters}}}'.encode()


TAKEN = (
    BODY,
    body(
        '[{"username": "admin"}, {"password": "admin"}, {"vlan": 534}, {"interfaces": [1, 2, 3,'
        " 4]}]"
    ),
    body('{"username": "admin", "password": "admin", "vlan": 534, "interfaces": [1, 2, 3, 4]}'),
    body('[{"username": "admin", "password": "admin", "vlan": 534, "interfaces": [1, 2, 3, 4]}]'),
    body('{"vlan": 1}', "1"),
    body('{"vlan": 4094}', "1500"),
    body('{"interfaces": []}'),
    body('{"interfaces": [0, 18446744073709551616]}'),
    body('{"anything": null, "else": [1e400, -0.0, true, {"vlan": "no vlan"}], "": ""}'),
    body('[{"vlan": 5}, {"vlan": 5}]'),
    body('{"vlan": 5, "vlan": 5}'),
    body('{"password": "\\ud800"}'),
    body('{"password": "\\u0000"}'),
    body('{"password": " "}'),
    body('{"password": "пароль 密码 🔑"}'),
    body('{"\\u0076lan": 5}'),
    b'\r\n\t {"more": {"timeoutInSeconds": "x"}, "parameters": {"x": 1}, ' + TIMEOUT + b"} \n",
    body('{"big": ' + "9" * 5000 + "}"),
)
NOT_JSON = (
    b"",
    b" ",
    b"{",
    b"nonsense",
    b"timeoutInSeconds=14",
    b"<xml/>",
    b"\x00",
    body('{"vlan": 5},'),
    body('{"vlan": 5}') + b"\x00",
    body('{"vlan": 5}') * 2,
    body("{'vlan': 5}"),
    body('{"vlan": NaN}'),
    body('{"x": NaN}'),
    body('{"x": Infinity}'),
    body('{"x": -Infinity}'),
    body('{"x": 01}'),
    body('{"x": 0x1}'),
    body('{"x": "\x01"}'),
    body('{"x": "\\x"}'),
    b"\xef\xbb\xbf" + BODY,
    BODY.decode().encode("utf-16"),
    BODY.decode().encode("cp1251"),
    b'{"x": "\xed\xa0\x80"}',
    b"\xff",
    b"[" * 10_000,
    b"[" * 10_000 + b"]" * 10_000,
    body('{"":' * 10_000 + "1" + "}" * 10_000),
)
NAMED = (
    (b"null", "the body: expected a JSON object"),
    (b"[]", "the body: expected a JSON object"),
    (b'"text"', "the body: expected a JSON object"),
    (b"14", "the body: expected a JSON object"),
    (b"[" + BODY + b"]", "the body: expected a JSON object"),
    (b"{}", "timeoutInSeconds: required"),
    (b"{" + TIMEOUT + b"}", "parameters: required"),
    (b'{"parameters": {"vlan": 5}}', "timeoutInSeconds: required"),
    *(
        (body('{"vlan": 5}', value), "timeoutInSeconds: expected an integer from 1 to 1500")
        for value in (
            "0",
            "-1",
            "1501",
            "5.0",
            "1e2",
            '"14"',
            "true",
            "null",
            "[14]",
            "{}",
            "1e400",
            "9" * 5000,
            "-" + "9" * 5000,
        )
    ),
    *(
        (
            body('[{"x": 1}, {"x": 1}, {"vlan": ' + value + "}]"),
            f"parameters[2].vlan: expected {VLAN}",
        )
        for value in (
            "0",
            "4095",
            "-5",
            "5.0",
            "5e0",
            '"5"',
            "true",
            "false",
            "null",
            "[5]",
            "{}",
            "1e400",
            "9" * 5000,
        )
    ),
    (body('{"vlan": 0}'), f"parameters.vlan: expected {VLAN}"),
    (body('{"username": ""}'), "parameters.username: expected a non-empty string"),
    (body('{"username": null}'), "parameters.username: expected a non-empty string"),
    (body('{"password": 12345}'), "parameters.password: expected a non-empty string"),
    (body('{"password": ["s3cr3t"]}'), "parameters.password: expected a non-empty string"),
    (
        body('{"password": {"s3cr3t": "s3cr3t"}}'),
        "parameters.password: expected a non-empty string",
    ),
    (body('{"interfaces": 1}'), f"parameters.interfaces: expected {LIST}"),
    (body('{"interfaces": "1"}'), f"parameters.interfaces: expected {LIST}"),
    (body('{"interfaces": null}'), f"parameters.interfaces: expected {LIST}"),
    (body('{"interfaces": {"0": 1}}'), f"parameters.interfaces: expected {LIST}"),
    (
        body('{"interfaces": [1, 2.0]}'),
        "parameters.interfaces[1]: expected an integer of 0 or more",
    ),
    (body('{"interfaces": [-1]}'), "parameters.interfaces[0]: expected an integer of 0 or more"),
    (body('{"interfaces": [true]}'), "parameters.interfaces[0]: expected an integer of 0 or more"),
    (
        body('[{"interfaces": [0, null]}]'),
        "parameters[0].interfaces[1]: expected an integer of 0 or more",
    ),
    (body("null"), "parameters: expected an object or a list of objects"),
    (body('"s3cr3t"'), "parameters: expected an object or a list of objects"),
    (body("[]"), "parameters: expected at least one key"),
    (body("{}"), "parameters: expected at least one key"),
    (body("[{}]"), "parameters: expected at least one key"),
    (body("[null]"), "parameters[0]: expected an object"),
    (body('[{"vlan": 5}, "s3cr3t"]'), "parameters[1]: expected an object with a single key"),
    (body('[{"vlan": 5}, {}]'), "parameters[1]: expected an object with a single key"),
    (
        body('[{"vlan": 5}, {"username": "a", "password": "s3cr3t"}]'),
        "parameters[1]: expected an object with a single key",
    ),
    (body('{"vlan": 5, "vlan": 6}'), "parameters.vlan: given twice with different values"),
    (body('[{"vlan": 5}, {"vlan": 6}]'), "parameters[1].vlan: given twice with different values"),
    (
        body('[{"password": "s3cr3t"}, {"password": "s3cr3t2"}]'),
        "parameters[1].password: given twice with different values",
    ),
    (
        body('{"s3cr3t": 1, "s3cr3t": 1.0}'),
        "parameters: a key is given twice with different values",
    ),
    (
        b'{"timeoutInSeconds": 5, ' + TIMEOUT + b', "parameters": {"vlan": 5}}',
        "timeoutInSeconds: given twice with different values",
    ),
    (
        b"{" + TIMEOUT + b', "parameters": {"vlan": 5}, "parameters": {"vlan": 6}}',
        "parameters: given twice with different values",
    ),
)
