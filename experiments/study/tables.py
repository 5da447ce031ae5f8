"""The study's records as CSV and as Markdown tables."""

import csv
import io
from collections.abc import Callable, Sequence

from experiments.study.base import Record

Values = dict[str, dict[int, float]]


def to_csv(records: Sequence[Record]) -> str:
    """Format all records, one number a line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Record._fields)
    writer.writerows(r._replace(value=f"{r.value:.6g}") for r in records)
    return buffer.getvalue()


def values(records: Sequence[Record], problem: str, metric: str) -> Values:
    """Select the values of one metric of a problem.

    Args:
      records: the numbers of the study.
      problem: name of the problem.
      metric: name of the metric.

    Returns:
      {solver: {nfe: value}}, in the order of the records.
    """
    selected: Values = {}
    for record in records:
        if (record.problem, record.metric) == (problem, metric):
            selected.setdefault(record.solver, {})[record.nfe] = record.value
    return selected


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def errors_by_nfe(errors: Values, nfes: Sequence[int]) -> str:
    """Format errors with solvers in rows and NFE in columns, the smallest of each column in bold."""

    def cell(nfe: int, text: str) -> str:
        best = min(float(f"{v[nfe]:.2g}") for v in errors.values())
        return f"**{text}**" if float(text) == best else text

    rows = [[name, *(cell(nfe, f"{v[nfe]:.2g}") for nfe in nfes)] for name, v in errors.items()]
    return markdown(["solver", *map(str, nfes)], rows)


def by_nfe(metrics: Sequence[Values], nfes: Sequence[int], format_cell: Callable[..., str]) -> str:
    """Format several metrics with solvers in rows and NFE in columns.

    Args:
      metrics: values of each metric, all for the same solvers.
      nfes: numbers of network calls.
      format_cell: format_cell(a, b, ...) -> text, for one value of each metric.

    Returns:
      A Markdown table.
    """
    rows = [[name, *(format_cell(*(m[name][nfe] for m in metrics)) for nfe in nfes)] for name in metrics[0]]
    return markdown(["solver", *map(str, nfes)], rows)

