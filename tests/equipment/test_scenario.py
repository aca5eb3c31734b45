"""Scenario files: their contents, and the errors for invalid ones."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtprov.equipment.scenario import BUILT_IN, load_scenario
from rtprov.errors import ConfigurationError

ANSWERS = '200, 404, 500, 503, "hang", "drop" or "garbage"'


def rule(*lines: str, match: str = '"A.*"', answer: str = "200") -> str:
    return "\n".join(["[[rule]]", f"match = {match}", f"answer = {answer}", *lines, ""])


class GoodFiles(SynchronousTestCase):
    def test_empty(self) -> None:
        """An empty file is a scenario without rules."""
        for text in ("", "\n# nothing\n", "rule = []"):
            self.assertEqual(load_scenario(text), ())

    def test_a_rule(self) -> None:
        """A rule has the values in the file, and None for the others."""
        (full,) = load_scenario(
            rule("delay = 90.5", "retry_after = 5", "times = 2", match="'A\\d+'", answer="503")
        )
        self.assertEqual(
            (full.match.pattern, full.answer, full.delay, full.retry_after, full.times),
            ("A\\d+", 503, 90.5, 5, 2),
        )
        (bare,) = load_scenario(rule())
        self.assertEqual(
            (bare.answer, bare.delay, bare.retry_after, bare.times), (200, None, None, None)
        )

    def test_every_answer(self) -> None:
        """Each kind of answer is accepted, and the rules keep their order."""
        answers = ["200", "404", "500", "503", '"hang"', '"drop"', '"garbage"']
        rules = load_scenario("".join(rule(answer=answer) for answer in answers))
        self.assertEqual(
            [each.answer for each in rules], [200, 404, 500, 503, "hang", "drop", "garbage"]
        )

    def test_times_of_zero_seconds(self) -> None:
        """A delay of 0 s is a delay, also as an integer."""
        for value in ("0", "0.0"):
            self.assertEqual(load_scenario(rule(f"delay = {value}"))[0].delay, 0.0)

    def test_the_built_in_rules(self) -> None:
        """The built-in rules are those of the contract."""
        words = {each.match.pattern.removesuffix(".*"): each.answer for each in BUILT_IN}
        expected = {
            "NOTFOUND": 404,
            "FAIL": 500,
            "HANG": "hang",
            "DROP": "drop",
            "GARBAGE": "garbage",
            "BUSY": 503,
        }
        self.assertEqual(words, expected)


class BadFiles(SynchronousTestCase):
    def refusal(self, text: str) -> str:
        with self.assertRaises(ConfigurationError) as caught:
            load_scenario(text)
        message = str(caught.exception)
        self.assertNotIn("\n", message)
        return message

    def test_not_toml(self) -> None:
        """A file that is not TOML is refused as such."""
        for text in (
            "[[rule]",
            "match",
            "a = 1\na = 2",
            "{}",
            "x = [1",
            "x = \x00",
            "x = " + "[" * 100_000,
            "x = " + "9" * 5000,
        ):
            self.assertIn("not TOML", self.refusal(text))

    def test_other_tables(self) -> None:
        """Only [[rule]] tables are accepted. A misspelt one is named."""
        for text in (
            "rule = 5",
            '[rule]\nmatch = "A"\nanswer = 200',
            "[[rules]]",
            "other = 1",
            rule() + "[other]",
        ):
            self.assertTrue(self.refusal(text).startswith("expected tables [[rule]] only: "), text)
        self.assertIn("rules", self.refusal("[[rules]]"))

    def test_the_rule_is_named(self) -> None:
        """The message names the rule, counted from 1, and the key."""
        for line, key in (
            ("delay = -1", "delay"),
            ("delay = 86401", "delay"),
            ("delay = nan", "delay"),
            ("delay = inf", "delay"),
            ('delay = "5"', "delay"),
            ("delay = true", "delay"),
            ("delay = []", "delay"),
            ("retry_after = -1", "retry_after"),
            ("retry_after = 1.5", "retry_after"),
            ('retry_after = "soon"', "retry_after"),
            ("retry_after = true", "retry_after"),
            ("times = 0", "times"),
            ("times = -1", "times"),
            ("times = 2.5", "times"),
            ("times = true", "times"),
            ("times = 1979-05-27", "times"),
        ):
            self.assertTrue(self.refusal(rule() + rule(line)).startswith(f"rule 2: {key}: "), line)

    def test_answer(self) -> None:
        """The message for an invalid answer lists the valid ones."""
        for value in ("201", "0", '"Hang"', '"200"', '"timeout"', "200.5", "true", "[200]", "{}"):
            self.assertEqual(
                self.refusal(rule(answer=value)), f"rule 1: answer: expected {ANSWERS}"
            )

    def test_match(self) -> None:
        """An invalid `match` is named, including an invalid regular expression."""
        for value in (
            "5",
            '["A"]',
            '"("',
            '"*"',
            '"[a"',
            '"a{99999999999}"',
            '"(?P<a>x)(?P<a>y)"',
            f'"{"(" * 10_000}"',
        ):
            self.assertTrue(self.refusal(rule(match=value)).startswith("rule 1: match: "), value)

    def test_missing_and_unknown(self) -> None:
        """A missing key and an unknown key are named."""
        for text, key in (
            ("[[rule]]", "match"),
            ('[[rule]]\nmatch = "A"', "answer"),
            ("[[rule]]\nanswer = 200", "match"),
            (rule("delays = 5"), "delays"),
            (rule("Delay = 5"), "Delay"),
        ):
            message = self.refusal(text)
            self.assertTrue(message.startswith("rule 1: "), message)
            self.assertIn(f"`{key}`", message)

    def test_no_table(self) -> None:
        """A rule that is not a table is named."""
        self.assertTrue(self.refusal("rule = [5]").startswith("rule 1: "))
