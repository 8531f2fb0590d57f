"""The EDN reader, by the examples of its specification and by what Clojure prints."""

from typing import Any

import pytest

from quorate.errors import UsageError
from quorate.verification.edn import Name, elements, values
from quorate.verification.values import MAX_DEPTH


def read(text: str) -> Any:
    (value, _), *more = values(text, "it.edn")
    assert not more
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nil", None), ("true", True), ("false", False),
        ("0", 0), ("-12", -12), ("+7", 7), ("42N", 42), ("9223372036854775808", 1 << 63),
        ("1.5", 1.5), ("-2e3", -2000.0), ("3.25M", 3.25), ("1.", 1.0),
        ('""', ""), (r'"a\n\"b\" \\ \u0041"', 'a\n"b" \\ A'), ('"two\nlines"', "two\nlines"),
        (r"\a", "a"), (r"\newline", "\n"), (r"\u00e9", "é"), (r"\(", "("),
        (":invoke", "invoke"), (":jepsen.core/op", "jepsen.core/op"), ("foo/bar", "foo/bar"), ("-", "-"), ("+x", "+x"),
        ("[]", []), ("[1 2, 3]", [1, 2, 3]), ("(1 (2))", [1, [2]]), ("[1[2]3]", [1, [2], 3]),
        ("{}", {}), ("{:a 1, :b [2]}", {"a": 1, "b": [2]}), ("{[1 2] 3}", {(1, 2): 3}),
        ("#{1 2 [3]}", frozenset({1, 2, (3,)})),
        ('#inst "2020-01-01"', "2020-01-01"), ("#jepsen.history.Op{:index 0}", {"index": 0}), ("#a #b 1", 1),
        ("; first\n1 ; last", 1), ("[1 #_2 3 #_ 4]", [1, 3]), ("[#_ #_ 1 2 3]", [3]), ("#_{:a 1} 5 #_6", 5),
    ],
)  # fmt: skip
def test_reads(text: str, value: Any) -> None:
    found = read(text)
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)


def test_keywords_are_names_and_strings_are_not() -> None:
    assert isinstance(read(":write"), Name)
    assert not isinstance(read('"write"'), Name)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("[1\n2", 2, "the file ends, expected ']'"),
        ("{:a\n}", 2, "the key 'a' has no value"),
        ("{:a 1 :a 2}", 1, "the key 'a' stands twice in a map"),
        ("#{1 1}", 1, "a set holds a member twice"),
        ("1\n\n]", 3, "']' closes nothing"),
        ('"abc\n', 1, "a string has no end"),
        (r'"\q"', 1, r"the escape \q"),
        (r"\quux", 1, r"\quux is no character"),
        ("12x", 1, "'12x' is no number"),
        ("1/2", 1, "'1/2' is no number"),
        ("##NaN", 1, "infinities and NaN are not supported"),
        ("#1", 1, "'#' begins no value"),
        ("#_", 1, "the file ends, expected a value"),
        ("#tag", 1, "the file ends, expected a value"),
        ("::a", 1, "'::a' is no keyword"),
        ("\\", 1, "the file ends, expected a character"),
        ("9" * 5000, 1, "longer than 4000 characters"),
        ("[" * (MAX_DEPTH + 2), 1, f"nest deeper than {MAX_DEPTH}"),
        ("#a " * (MAX_DEPTH + 2) + "1", 1, f"nest deeper than {MAX_DEPTH}"),
        ("#_ " * 100_000, 1, "the file ends, expected a value"),
        ("[#_ " * 100_000, 1, f"nest deeper than {MAX_DEPTH}"),
    ],
)
def test_says_where_and_what_was_expected(text: str, line: int, expected: str) -> None:
    with pytest.raises(UsageError) as raised:
        list(values(text, "it.edn"))
    assert str(raised.value).startswith(f"it.edn:{line}: ")
    assert expected in str(raised.value)


def test_elements_of_one_vector_or_one_after_another_with_their_lines() -> None:
    expected = [({"a": 1}, 2), ({"b": 2}, 3)]
    assert list(elements("[\n{:a 1}\n{:b 2}]\n", "it.edn")) == expected
    assert list(elements(";\n{:a 1}\n{:b 2}", "it.edn")) == expected
    assert list(elements("", "it.edn")) == []
    with pytest.raises(UsageError, match=r"it\.edn:2: something follows"):
        list(elements("[1]\n2", "it.edn"))
