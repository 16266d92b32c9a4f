"""utils/made_from.py: one comparison of what something was made from."""

from utils.made_from import changed, listed


def test_keys_that_differ_are_named_with_both_values() -> None:
    old = {"size": [2, 3], "ratio": 1.0, "gone": 1, "free": "a"}
    new = {"size": (2, 3), "ratio": 2.0, "added": None, "fresh": "x" * 200, "free": "b"}
    found = changed(old, new, ignore={"free"})
    assert found == {"ratio": "1.0 -> 2.0", "fresh": f"None -> {'x' * 77}..."}
    assert listed(found) == f"ratio: 1.0 -> 2.0, fresh: None -> {'x' * 77}..."
    assert changed(new, new) == {}


def test_of_two_mappings_the_entries_that_differ_are_named() -> None:
    old, new = {"o": {"a": 1, "b": (2, 3), "gone": 4}}, {"o": {"a": 5, "b": [2, 3], "more": 6}}
    before, after = {"a": 1, "gone": 4, "more": None}, {"a": 5, "gone": None, "more": 6}
    assert changed(old, new) == {"o": f"{before} -> {after}"}
    assert changed({"o": None}, {"o": {"a": 1}}) == {"o": "None -> {'a': 1}"}
