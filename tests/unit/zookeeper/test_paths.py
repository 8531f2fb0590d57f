"""Which paths are valid, against Java's rule written out character by character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.zookeeper.paths import parent_path, split_path, valid_name, valid_path


def java_rule(path: str) -> bool:
    """PathUtils.validatePath as a walk over UTF-16 units."""
    raw = path.encode("utf-16-be", "surrogatepass")
    units = [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]
    if not units or units[0] != ord("/"):
        return False
    if len(units) == 1:
        return True
    if units[-1] == ord("/"):
        return False
    for unit in units:
        if unit <= 0x1F or 0x7F <= unit <= 0x9F or 0xD800 <= unit <= 0xF8FF or 0xFFF0 <= unit <= 0xFFFF:
            return False
    return all(part not in ("", ".", "..") for part in path[1:].split("/"))


@pytest.mark.parametrize(
    ("path", "valid"),
    [
        ("/", True),
        ("/a", True),
        ("/a/b c", True),
        ("/a/...", True),
        ("/a/.hidden", True),
        ("/a/b..", True),
        ("/a/\u00e9\u4e2d", True),
        ("/\uf900", True),
        ("/\uffef", True),
        ("", False),
        ("a", False),
        ("//", False),
        ("/a/", False),
        ("/a//b", False),
        ("/.", False),
        ("/..", False),
        ("/a/./b", False),
        ("/a/../b", False),
        ("/a\0", False),
        ("/a\n", False),
        ("/a\x7f", False),
        ("/a\x9f", False),
        ("/a\ue000", False),
        ("/a\ufffd", False),
        ("/a\U0001f600", False),
    ],
)
def test_valid_path(path: str, valid: bool) -> None:
    assert valid_path(path) is valid
    assert java_rule(path) is valid


_TEXT = st.text(
    st.one_of(st.sampled_from("/.ab \0\x1f\x7f\x9f\xa0\ud7ff\ue000\uf8ff\uf900\uffef\ufff0"), st.characters()),
    max_size=8,
)


@given(_TEXT)
def test_paths_agree_with_javas_rule(text: str) -> None:
    assert valid_path(text) is java_rule(text)
    assert valid_path("/" + text) is java_rule("/" + text)


@given(_TEXT)
def test_a_name_is_valid_if_the_path_with_it_is(name: str) -> None:
    assert valid_name(name) is ("/" not in name and java_rule("/parent/" + name))


def test_parts() -> None:
    assert split_path("/a/b") == ("/a", "b")
    assert split_path("/a") == ("/", "a")
    assert split_path("/") == ("/", "")
    assert parent_path("/a/b/c") == "/a/b"
    assert parent_path("/a") == "/"
