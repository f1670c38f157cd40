import sys

import pytest

from lightning_bounds.report import format_number, text_table


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.724, "0.724"),
        (0.69, "0.690"),
        (5.44e-3, "5.44e-03"),
        (0.01, "0.0100"),
        (0.0099999, "0.0100"),
        (-0.5, "-0.500"),
        (1.0, "1.00"),
        (99.96, "100"),
        (9994.9, "9995"),
        (9995.1, "1.00e+04"),
        (1e300, "1.00e+300"),
        (0.0, "0"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (9999999, "9999999"),
        (True, "True"),
    ],
)
def test_numbers_have_three_significant_digits(number, text):
    assert format_number(number) == text


def test_the_table_of_the_paper():
    columns = ["", "Π_I y", "J_I⁺ y"]
    lines = text_table("Table 1", columns, [["J_init", 0.724, 5.44e-3], ["J_final", 0.987, 3.16e-3]]).splitlines()
    assert lines[0] == "Table 1"
    assert [line.split() for line in lines if "J_i" in line or "J_f" in line][-2:] == [
        ["J_init", "0.724", "5.44e-03"],
        ["J_final", "0.987", "3.16e-03"],
    ]


def test_wide_tables_are_neither_wrapped_nor_cut():
    text = text_table("wide", [f"column {i}" for i in range(60)], [[1 / 3] * 60, ["x" * 50] * 60])
    assert text.count("0.333") == 60
    assert text.count("x" * 50) == 60
    assert len(text.splitlines()) == 6


def test_cells_are_no_markup():
    assert "[bold]x[/bold]" in text_table("[red]t", ["[i]c"], [["[bold]x[/bold]"]])


def test_rows_need_one_cell_per_column():
    with pytest.raises(ValueError, match=r"Expected 2 cells in each row of table 't'.* but got 1 in row 0"):
        text_table("t", ["a", "b"], [[1]])


def test_without_rich_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.box", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-bounds\[experiments\]'"):
        text_table("t", ["a"], [[1]])
