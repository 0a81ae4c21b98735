from prepare.columns import settle


def settled(first, second):
    """One column `x` in two splits."""
    rows = settle({"train": [{"x": x} for x in first], "test": [{"x": x} for x in second]})
    return [[row["x"] for row in part] for part in rows.values()]


def test_columns_that_agree_stay_as_they_are():
    for values in ([1, 2], ["a", None], [["a"], []], [1.5, None], [True, False], [None, None]):
        assert settled(values, values) == [values, values]


def test_whole_numbers_become_decimals_where_some_are():
    assert settled([1, 2], [1.5, None]) == [[1.0, 2.0], [1.5, None]]


def test_a_split_that_knows_nothing_says_so_in_the_type_of_the_others():
    assert settled(["a", None], [None]) == [["a", None], [""]]
    assert settled([["a"], []], [[], None]) == [[["a"], []], [[""], [""]]]
    assert settled([57, None], [None]) == [["57", None], [""]]


def test_structures_are_left_alone_and_rows_are_copies():
    row = {"x": {"y": 1}, "z": None}
    rows = settle({"train": [row], "test": [{"x": None, "z": "a"}], "validation": []})
    assert rows == {"train": [{"x": {"y": 1}, "z": ""}], "test": [{"x": None, "z": "a"}]}
    assert row["z"] is None
