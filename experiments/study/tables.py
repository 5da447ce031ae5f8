"""The study's records as CSV and as Markdown tables."""

import csv
import io
from collections.abc import Callable, Sequence

from experiments.study.base import Record

Values = dict[str, dict[int, float]]


def to_csv(records: Sequence[Record]) -> str:
    """All records in long form, one number a line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Record._fields)
    writer.writerows(r._replace(value=f"{r.value:.6g}") for r in records)
    return buffer.getvalue()


def values(records: Sequence[Record], problem: str, metric: str) -> Values:
    """{solver: {nfe: value}} of one metric of a problem, in the order of the records."""
    found: Values = {}
    for record in records:
        if (record.problem, record.metric) == (problem, metric):
            found.setdefault(record.solver, {})[record.nfe] = record.value
    return found


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def errors_by_nfe(found: Values, nfes: Sequence[int]) -> str:
    """Solvers in rows, NFE in columns, two significant digits, the smallest number of a column in bold."""

    def cell(nfe: int, text: str) -> str:
        best = min(float(f"{v[nfe]:.2g}") for v in found.values())
        return f"**{text}**" if float(text) == best else text

    rows = [[name, *(cell(nfe, f"{v[nfe]:.2g}") for nfe in nfes)] for name, v in found.items()]
    return markdown(["solver", *map(str, nfes)], rows)


def by_nfe(columns: Sequence[Values], nfes: Sequence[int], show: Callable[..., str]) -> str:
    """Solvers in rows, NFE in columns; a cell is show(a, b, ...) of one number from each of `columns`."""
    rows = [[name, *(show(*(c[name][nfe] for c in columns)) for nfe in nfes)] for name in columns[0]]
    return markdown(["solver", *map(str, nfes)], rows)

