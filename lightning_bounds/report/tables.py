"""Tables for people: plain text, for the terminal and for log files."""

import io
import math
from collections.abc import Sequence


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | int]]) -> str:
    """A table as text, with numbers of three significant digits, never wrapped or cut.

    Args:
        title: Title, above the table.
        columns: Names of the columns.
        rows: The cells, row by row; columns of numbers are aligned to the right.

    Returns:
        The table's lines, without colors and without trailing spaces.

    Raises:
        ModuleNotFoundError: If rich is not installed.
        ValueError: If a row has not one cell per column.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Table 1 is such a table.

    Example:
        >>> print(text_table("Alignment", ["Jacobian", "information", "pinv"], [["initial", 0.7241, 0.005438]]))
        Alignment
          Jacobian   information       pinv
         ───────────────────────────────────
          initial          0.724   5.44e-03
    """
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Expected rich, which lays out the tables, but it is not installed; "
            "do `pip install 'lightning-bounds[experiments]'`."
        ) from error
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(
                f"Expected {len(columns)} cells in each row of table {title!r}, one per column, "
                f"but got {len(row)} in row {number}."
            )
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
    for i, column in enumerate(columns):
        numeric = all(not isinstance(row[i], str) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(format_number(cell) if not isinstance(cell, str) else cell) for cell in row))
    console = Console(file=io.StringIO(), width=100_000, color_system=None, force_terminal=False)
    with console.capture() as text:
        console.print(table)
    return "\n".join(line.rstrip() for line in text.get().strip("\n").splitlines())


def format_number(number: float | int) -> str:
    """A number to three significant digits: plain from 0.01 to 9999, in powers of ten beyond; integers in full.

    Args:
        number: Any number, NaN and infinity included.

    Returns:
        Its text.

    Example:
        >>> [format_number(x) for x in (0.72412, 0.0054389, 12.0, 1234.5, 98765.0, 98765, 0.0, float("inf"))]
        ['0.724', '5.44e-03', '12.0', '1234', '9.88e+04', '98765', '0', 'inf']
    """
    if isinstance(number, int):
        return str(number)
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    text = f"{number:.2e}"
    exponent = int(text.partition("e")[2])
    return f"{number:.{max(2 - exponent, 0)}f}" if -2 <= exponent <= 3 else text
