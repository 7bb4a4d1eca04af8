"""Tables: numeric columns of CSV files, with NaN where values are missing. Floor 5."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from tensorlite.errors import DataError
from tensorlite.utils.data.files import read_text

# NumPy also reads "today", "" and time zones
_ISO = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d(:\d\d(:\d\d)?)?)?)?")


def read_csv_series(
    path: str | os.PathLike,
    column: str | Sequence[str],
    date_column: str | None = None,
    missing: Collection[str] = ("", "NA", "?"),
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> Any:
    """Numeric columns of a CSV file whose first line names them, as float64; NaN where a value is missing.

    Args:
        path: the file.
        column: the name of a column, which gives an array (N,), or several names, which give (N, len(column)).
        date_column: the name of a column of dates as ISO 8601 writes them (``2010-01-31``, ``2010-01-31T23:00``).
        missing: the cells, without white space around them, that mean: no value.
        delimiter: what parts the cells.
        encoding: of the file.

    Returns:
        The values; with ``date_column`` the pair (dates as ``datetime64[s]``, values).

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "t.csv")
    >>> with open(path, "w") as file:
    ...     _ = file.write("day,degrees\\n2010-01-01,1.5\\n2010-01-02,NA\\n")
    >>> read_csv_series(path, "degrees")
    array([1.5, nan])
    >>> read_csv_series(path, "degrees", date_column="day")[0].astype("M8[D]").tolist()[1]
    datetime.date(2010, 1, 2)

    Raises:
        DataError: a file that is missing or no CSV, a column that is not there, a row of another length, a cell that
            is no number or no date; the message names the file, the line and the column.
    """
    names = [column] if isinstance(column, str) else list(column)
    rows = csv.reader(
        io.StringIO(read_text(path, encoding).removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True
    )
    values: list[list[float]] = []
    dates: list[np.datetime64] = []
    try:
        header = [name.strip() for name in next(rows, [])]
        absent = [name for name in [*names, *([date_column] if date_column else [])] if name not in header]
        if absent:
            raise DataError(f"{path}: line 1: no column {absent[0]!r}; wanted one of {', '.join(map(repr, header))}")
        places = [header.index(name) for name in names]
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}: line {rows.line_num}: {len(row)} cells; wanted {len(header)}, as the first line has"
                )
            found = []
            for place in places:
                cell = row[place].strip()
                try:
                    # Python's own digits grouping ("1_000") is no number in a table
                    found.append(np.nan if cell in missing else float(cell.replace("_", "no number")))
                except ValueError:
                    raise _wrong(path, rows, header[place], cell, "a number") from None
            values.append(found)
            if date_column:
                cell = row[header.index(date_column)].strip()
                try:
                    dates.append(np.datetime64(cell if _ISO.fullmatch(cell) else "no date", "s"))
                except ValueError:
                    raise _wrong(path, rows, date_column, cell, "a date such as 2010-01-31") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num}: {error}; wanted CSV") from error
    array = np.array(values, np.float64).reshape(len(values), len(names))
    array = array[:, 0] if isinstance(column, str) else array
    return (np.array(dates, "datetime64[s]"), array) if date_column else array


def _wrong(path: Any, rows: Any, name: str, cell: str, wanted: str) -> DataError:
    return DataError(f"{path}: line {rows.line_num}, column {name!r}: got {cell!r}; wanted {wanted}")
