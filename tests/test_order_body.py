"""Request bodies: which are accepted, which are refused, and the messages."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import InvalidBody
from rtprov.http.request import MAX_BODY_BYTES
from rtprov.order_body import MAX_DEPTH, ProvisioningRequest, parse_request
from tests.support.strategies import texts

CONTRACT_EXAMPLE = b"""{"timeoutInSeconds": 14,
 "parameters": [{"username": "admin"}, {"password": "admin"}, {"vlan": 534},
  {"interfaces": [1, 2, 3, 4]}]}"""


def with_parameters(text: str) -> bytes:
    return b'{"timeoutInSeconds": 14, "parameters": ' + text.encode() + b"}"


class BodyTestCase(SynchronousTestCase):
    def accepts(self, body: bytes | str, timeout_s: int = 14) -> None:
        body = body.encode() if isinstance(body, str) else body
        self.assertEqual(parse_request(body), ProvisioningRequest(timeout_s), body[:100])

    def refuses(self, body: bytes | str, message: str) -> None:
        error = self.assertRaises(
            InvalidBody, parse_request, body.encode() if isinstance(body, str) else body
        )
        self.assertEqual(str(error), message, body[:100])

    def accepts_parameters(self, *texts: str) -> None:
        for text in texts:
            self.accepts(with_parameters(text))

    def refuses_parameters(self, text: str, message: str) -> None:
        self.refuses(with_parameters(text), message)


class Text(BodyTestCase):
    """Bytes that are not valid JSON."""

    def test_contract_example(self) -> None:
        """The example in the contract is valid."""
        self.accepts(CONTRACT_EXAMPLE)

    def test_empty(self) -> None:
        """An empty body is reported as empty."""
        self.refuses(b"", "the body is empty")

    def test_not_json(self) -> None:
        """A body that is not JSON is refused with line and column."""
        self.refuses(b"  ", "the body is not JSON: line 1, column 3")
        self.refuses(b"hello", "the body is not JSON: line 1, column 1")
        self.refuses(CONTRACT_EXAMPLE + b" x", "the body is not JSON: line 3, column 34")
        self.refuses(CONTRACT_EXAMPLE[:-1], "the body is not JSON: line 3, column 32")
        for broken in (
            b'{"a": 1,}',
            b"{'a': 1}",
            b'{"a": 01}',
            b'{"a": .5}',
            b'{"a": "\n"}',
            b'{"a": "\\x"}',
            b'{"a": tru}',
            b'{"a": +1}',
            b"\0",
        ):
            self.assertRaises(InvalidBody, parse_request, broken)

    def test_byte_order_mark(self) -> None:
        """A byte order mark is not JSON (RFC 8259 §8.1)."""
        self.refuses(
            b"\xef\xbb\xbf" + CONTRACT_EXAMPLE,
            "the body is not JSON: it begins with a byte order mark",
        )

    def test_other_encodings(self) -> None:
        """Only UTF-8 is accepted: no UTF-16 or -32, no Latin-1 or CP1251, no encoded surrogates, no
        overlong forms.
        """
        text = '{"timeoutInSeconds": 14, "parameters": {"password": "пароль"}}'
        self.accepts(text)
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1251"):
            self.assertRaises(InvalidBody, parse_request, text.encode(encoding))
        for damaged in (b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xd0"):
            body = b'{"timeoutInSeconds": 14, "parameters": {"password": "' + damaged + b'"}}'
            self.refuses(body, "the body is not UTF-8: byte 53 is invalid")

    def test_not_a_number(self) -> None:
        """NaN and Infinity, which Python's parser accepts, are refused everywhere."""
        for number in ("NaN", "Infinity", "-Infinity"):
            self.refuses_parameters(
                f'{{"x": [{number}]}}', "the body is not JSON: NaN and Infinity are not allowed"
            )

    def test_not_an_object(self) -> None:
        """The whole body must be an object."""
        for text in ("[]", "null", "true", "14", '"text"', f"[{CONTRACT_EXAMPLE.decode()}]"):
            self.refuses(text, "the body: expected a JSON object")

    def test_depth(self) -> None:
        """Up to `MAX_DEPTH` levels are accepted. A deeper body is refused, by one level or by ten
        thousand.
        """
        refusal = f"the body is nested too deeply: the limit is {MAX_DEPTH} levels"
        around = 2  # the body, and ``parameters``
        self.accepts_parameters(nested(MAX_DEPTH - around), nested(MAX_DEPTH - around, "{"))
        for levels in (MAX_DEPTH - around + 1, 10_000):
            self.refuses_parameters(nested(levels), refusal)
        self.refuses_parameters(nested(MAX_DEPTH - around + 1, "{"), refusal)
        self.refuses(b"[" * MAX_BODY_BYTES, refusal)

    def test_brackets_side_by_side(self) -> None:
        """Adjacent brackets do not count as levels, nor do brackets in strings."""
        self.accepts_parameters('{"x": [' + ", ".join(["[]", "{}"] * 1000) + "]}")
        self.accepts_parameters('{"password": "' + "[{" * 1000 + '"}')
        self.accepts_parameters('{"password": "' + '\\"[{\\\\' * 1000 + '"}')
        self.refuses('{"a": "' + '\\"[' * 1000, "the body is not JSON: line 1, column 7")

    @given(st.binary(max_size=200))
    @example(b"\\")
    @example(b'{"parameters": "\\')
    def test_any_bytes(self, body: bytes) -> None:
        """Arbitrary bytes raise nothing but `InvalidBody`."""
        with contextlib.suppress(InvalidBody):
            parse_request(body)


def nested(levels: int, bracket: str = "[") -> str:
    """Return ``parameters`` with a value of this many levels under an unknown key."""
    if bracket == "[":
        return '{"x": ' + "[" * levels + "]" * levels + "}"
    return '{"x": ' + '{"y": ' * (levels - 1) + "{}" + "}" * (levels - 1) + "}"


class TimeoutInSeconds(BodyTestCase):
    def test_range(self) -> None:
        """The range is 1 to 1500 seconds."""
        for timeout_s in (1, 14, 1500):
            self.accepts(
                f'{{"timeoutInSeconds": {timeout_s}, "parameters": {{"vlan": 1}}}}', timeout_s
            )

    def test_no_such_integer(self) -> None:
        """Another number, or a value that only looks like an integer, is refused."""
        for value in (
            "0",
            "-1",
            "1501",
            "5.0",
            "1e1",
            "true",
            '"5"',
            "null",
            "[5]",
            "{}",
            "9" * 5000,
            "-" + "9" * 5000,
        ):
            self.refuses(
                f'{{"timeoutInSeconds": {value}, "parameters": {{"vlan": 1}}}}',
                "timeoutInSeconds: expected an integer from 1 to 1500",
            )

    def test_missing(self) -> None:
        """It is required."""
        self.refuses('{"parameters": {"vlan": 1}}', "timeoutInSeconds: required")
        self.refuses("{}", "timeoutInSeconds: required")


class Forms(BodyTestCase):
    """The forms of ``parameters``."""

    def test_three_forms(self) -> None:
        """A list of single-key objects, one object, and a list with one object are accepted."""
        self.accepts_parameters(
            '[{"username": "admin"}, {"vlan": 534}]',
            '{"username": "admin", "vlan": 534}',
            '[{"username": "admin", "vlan": 534}]',
            '{"x": 1}',
        )

    def test_missing(self) -> None:
        """It is required."""
        self.refuses('{"timeoutInSeconds": 14}', "parameters: required")

    def test_no_key(self) -> None:
        """At least one key is required."""
        for text in ("[]", "{}", "[{}]"):
            self.refuses_parameters(text, "parameters: expected at least one key")

    def test_other_shapes(self) -> None:
        """Any other form is refused, and the place is named."""
        for text in ("null", "5", "true", '"vlan"', "1.5"):
            self.refuses_parameters(text, "parameters: expected an object or a list of objects")
        for text in ("[null]", "[5]", '["vlan"]', '[[{"vlan": 1}]]'):
            self.refuses_parameters(text, "parameters[0]: expected an object")
        self.refuses_parameters(
            '[{"vlan": 1}, {"a": 1, "b": 2}]', "parameters[1]: expected an object with a single key"
        )
        self.refuses_parameters(
            '[{"a": 1, "b": 2}, {"vlan": 1}]', "parameters[0]: expected an object with a single key"
        )
        self.refuses_parameters(
            '[{"vlan": 1}, {}]', "parameters[1]: expected an object with a single key"
        )
        self.refuses_parameters(
            '[{"vlan": 1}, [], {}]', "parameters[1]: expected an object with a single key"
        )
        self.refuses_parameters(
            '[{"vlan": 1}, {"a": 1}, 5]', "parameters[2]: expected an object with a single key"
        )


class TwiceTheSameKey(BodyTestCase):
    def test_different_values(self) -> None:
        """A key with two different values is refused, within an object and across the list."""
        self.refuses_parameters(
            '{"vlan": 1, "vlan": 2}', "parameters.vlan: given twice with different values"
        )
        self.refuses_parameters(
            '[{"vlan": 1, "vlan": 2}]', "parameters[0].vlan: given twice with different values"
        )
        self.refuses_parameters(
            '[{"vlan": 1}, {"username": "x"}, {"vlan": 2}]',
            "parameters[2].vlan: given twice with different values",
        )
        self.refuses_parameters(
            '[{"vlan": 1}, {"vlan": 2, "vlan": 2}]',
            "parameters[1].vlan: given twice with different values",
        )

    def test_at_the_top(self) -> None:
        """The same holds for the keys of the body itself."""
        self.refuses(
            '{"timeoutInSeconds": 14, "timeoutInSeconds": 15, "parameters": {"vlan": 1}}',
            "timeoutInSeconds: given twice with different values",
        )
        self.refuses(
            '{"timeoutInSeconds": 14, "parameters": {"vlan": 1}, "parameters": [{"vlan": 1}]}',
            "parameters: given twice with different values",
        )
        self.refuses(
            '{"timeoutInSeconds": 14, "x": 1, "x": 2, "parameters": {"vlan": 1}}',
            "the body: a key is given twice with different values",
        )

    def test_unknown_key_is_not_repeated(self) -> None:
        """An unknown key may be anything, even a secret: the message gives only its place."""
        self.refuses_parameters(
            '{"s3cr3t": 1, "s3cr3t": 2}', "parameters: a key is given twice with different values"
        )
        self.refuses_parameters(
            '[{"s3cr3t": 1}, {"s3cr3t": 2}]',
            "parameters[1]: a key is given twice with different values",
        )

    def test_same_value(self) -> None:
        """A repeated key with the same value is accepted, in any spelling of the value."""
        self.accepts_parameters(
            '{"vlan": 1, "vlan": 1}',
            '[{"vlan": 1}, {"vlan": 1}]',
            '[{"vlan": 1, "vlan": 1}, {"username": "x"}]',
            '{"username": "x", "username": "\\u0078"}',
            '{"x": 1.0, "x": 1.00}',
            '{"x": [1, {"a": 1, "b": [2]}], "x": [1, {"b": [2], "a": 1}]}',
            f'{{"x": {"9" * 5000}, "x": {"9" * 5000}}}',
        )
        self.accepts(
            '{"timeoutInSeconds": 14, "parameters": {"vlan": 1}, "timeoutInSeconds": 14,'
            ' "parameters": {"vlan": 1}}'
        )

    def test_values_that_python_takes_for_equal(self) -> None:
        """1, 1.0 and true differ, and so do an empty object and an empty list, a number and its
        digits, and numbers of any size.
        """
        for one, other in (
            ("1", "1.0"),
            ("1", "true"),
            ("0", "false"),
            ("1.0", "true"),
            ("{}", "[]"),
            ("[1]", "[true]"),
            ('{"a": 1}', '{"a": 1.0}'),
            ('{"a": 1}', '[["a", 1]]'),
            ("null", "{}"),
            ("9" * 30, f'"{"9" * 30}"'),
            ("9" * 5000, "9" * 4999 + "8"),
            ("9" * 30, "-" + "9" * 30),
        ):
            for first, second in ((one, other), (other, one)):
                self.refuses_parameters(
                    f'{{"x": {first}, "x": {second}}}',
                    "parameters: a key is given twice with different values",
                )


class KnownKeys(BodyTestCase):
    def test_contract_wording(self) -> None:
        """The message names an invalid value by its place in the body, in the words of the
        contract.
        """
        self.refuses_parameters(
            '[{"username": "a"}, {"password": "b"}, {"vlan": 4095}]',
            "parameters[2].vlan: expected an integer from 1 to 4094",
        )
        self.refuses_parameters(
            '{"username": "a", "vlan": 0}', "parameters.vlan: expected an integer from 1 to 4094"
        )
        self.refuses_parameters(
            '[{"username": "a", "vlan": 0}]',
            "parameters[0].vlan: expected an integer from 1 to 4094",
        )
        self.refuses_parameters(
            '[{"a": 1}, {"b": 1}, {"c": 1}, {"interfaces": [1, -1]}]',
            "parameters[3].interfaces[1]: expected an integer of 0 or more",
        )

    def test_vlan(self) -> None:
        """vlan is an integer from 1 to 4094."""
        self.accepts_parameters('{"vlan": 1}', '{"vlan": 4094}')
        for value in (
            "0",
            "-1",
            "4095",
            "5.0",
            "5e0",
            "true",
            "null",
            '"534"',
            "[534]",
            "{}",
            "9" * 5000,
        ):
            self.refuses_parameters(
                f'{{"vlan": {value}}}', "parameters.vlan: expected an integer from 1 to 4094"
            )

    def test_username_and_password(self) -> None:
        """username and password are strings of at least one character, of any alphabet."""
        for key in ("username", "password"):
            self.accepts_parameters(
                f'{{"{key}": "x"}}',
                f'{{"{key}": "пароль"}}',
                f'{{"{key}": " "}}',
                f'{{"{key}": "\\u0000\\ud83d\\ude00"}}',
            )
            for value in (
                '""',
                "null",
                "5",
                "5.0",
                "true",
                '["x"]',
                '{"x": 1}',
                "9" * 30,
                "9" * 5000,
            ):
                self.refuses_parameters(
                    f'{{"{key}": {value}}}', f"parameters.{key}: expected a non-empty string"
                )

    def test_interfaces(self) -> None:
        """interfaces is a list of integers of 0 or more, without an upper limit."""
        self.accepts_parameters(
            '{"interfaces": []}',
            '{"interfaces": [0, 1, 1]}',
            f'{{"interfaces": [{2**64}, {"9" * 5000}]}}',
        )
        for value in ("null", "1", '"1"', "{}", '{"a": 1}', "true"):
            self.refuses_parameters(
                f'{{"interfaces": {value}}}',
                "parameters.interfaces: expected a list of integers of 0 or more",
            )
        for value in ("-1", "1.0", "true", "null", '"1"', "[]", "{}", "-" + "9" * 5000):
            self.refuses_parameters(
                f'{{"interfaces": [7, {value}]}}',
                "parameters.interfaces[1]: expected an integer of 0 or more",
            )

    def test_elsewhere(self) -> None:
        """Beside ``parameters``, or deeper in them, the same names have no rules."""
        self.accepts(
            '{"timeoutInSeconds": 14, "parameters": {"a": 1}, "vlan": 0, "username": null}'
        )
        self.accepts_parameters('{"a": {"vlan": 0}}', '{"timeoutInSeconds": 0, "parameters": 5}')


class UnknownKeys(BodyTestCase):
    def test_anything_goes(self) -> None:
        """Other keys may have any JSON value: null, huge numbers, lone surrogates, even objects
        with duplicate keys.
        """
        self.accepts_parameters(
            '{"x": null}',
            '{"": ""}',
            '{"x": {"y": 1, "y": 2}}',
            f'{{"x": {"9" * 5000}, "y": -{"9" * 5000}, "z": 1e400}}',
            '{"x": "\\ud800", "\\udfff": 1}',
            '{"пароль": "x"}',
            '[{"x": 1}, {"\\ud800": [1, {"y": 1, "y": true}]}]',
        )
        self.accepts('{"timeoutInSeconds": 14, "\\ud800": [null], "parameters": {"a": 1}}')

    def test_full_size(self) -> None:
        """A body of 64 KiB is accepted, whatever it contains."""
        for filler in (
            "9" * 65000,
            '"' + "\\u0430" * 10_800 + '"',
            "[" + "[]," * 21_000 + "0]",
            "{" + '"a":1,' * 10_000 + '"a":1}',
        ):
            body = with_parameters(f'{{"x": {filler}}}')
            self.accepts(body + b" " * (MAX_BODY_BYTES - len(body)))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "username": texts.filter(bool),
        "password": texts.filter(bool),
        "vlan": st.integers(min_value=1, max_value=4094),
        "interfaces": st.lists(st.integers(min_value=0), max_size=5),
        "other": json_values,
    },
).filter(bool)


class AnyBody(BodyTestCase):
    @given(st.integers(min_value=1, max_value=1500), parameters, st.booleans())
    def test_valid(self, timeout_s: int, valid: dict[str, Any], ascii_only: bool) -> None:
        """Every body that follows the rules is accepted in each of the three forms."""
        for form in (valid, [valid], [{key: value} for key, value in valid.items()]):
            self.accepts(
                json.dumps(
                    {"timeoutInSeconds": timeout_s, "parameters": form}, ensure_ascii=ascii_only
                ),
                timeout_s,
            )

    @given(json_values, json_values)
    def test_any_json(self, timeout: Any, value: Any) -> None:
        """Any JSON is accepted or refused with `InvalidBody`."""
        for body in (
            value,
            {"timeoutInSeconds": timeout, "parameters": value},
            {"timeoutInSeconds": 5, "parameters": [value, {"vlan": timeout}]},
        ):
            with contextlib.suppress(InvalidBody):
                parse_request(json.dumps(body).encode())

    @given(json_values)
    def test_value_twice(self, value: Any) -> None:
        """Every value equals itself."""
        text = json.dumps(value)
        self.accepts_parameters(f'{{"x": {text}, "x": {text}}}')

    @given(st.sampled_from(["username", "password", "vlan", "interfaces", "timeoutInSeconds"]))
    def test_no_value_is_repeated(self, key: str) -> None:
        """No message repeats a value."""
        for value in ('["s3cr3t"]', '{"s3cr3t": 1}', "7777777", '{"s3cr3t": "s3cr3t"}'):
            top, inner = (value, "5") if key == "timeoutInSeconds" else ("5", value)
            body = (
                f'{{"timeoutInSeconds": {top}, "parameters": [{{"a": 1}}, {{"{key}": {inner}}}]}}'
            )
            if key == "interfaces":
                body = body.replace("7777777", "[-7777777]")
            error = self.assertRaises(InvalidBody, parse_request, body.encode())
            self.assertNotIn("s3cr3t", str(error))
            self.assertNotIn("7777777", str(error))
