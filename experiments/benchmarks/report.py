"""Results of a benchmark: a line per row while it runs, a table at its end, and a JSON file."""

import json
import os
import pathlib
import platform
import sys
from typing import Any

import jax
import jaxlib
from absl import flags

from experiments.benchmarks.timing import Quartiles
from experiments.common import files, provenance
from gmflow_jax._files import to_path

OUT_HELP = "A .json file for the rows with their quartiles, and for the settings, machine and versions."

Value = str | int | float | Quartiles | None


class Report:
    """Collects the rows of a benchmark, {column: value}. A column that is missing or None stays empty.

    Args:
      name: name of the benchmark.
      out: a .json file for the results, or None.

    Raises:
      ValueError: if `out` cannot be written.
    """

    def __init__(self, name: str, out: str | None):
        self._name, self._out = name, to_path(out) if out else None
        if self._out is not None:
            provenance.check_out(self._out)
        self.rows: list[dict[str, Value]] = []

    def log(self, text: str) -> None:
        """Print progress to the standard error; only the table goes to the standard output."""
        print(text, file=sys.stderr, flush=True)

    def add(self, **row: Value) -> None:
        """Add a row and write the file, so that a run that is stopped leaves its rows."""
        self.rows.append(row)
        self.log("  ".join(f"{name} {_text(value)}" for name, value in row.items() if value is not None))
        if self._out is not None:
            files.write_text(self._out, json.dumps(self._content(), indent=1) + "\n")

    def finish(self) -> None:
        """Print the table."""
        machine = environment()
        print(f"{machine['devices']} ({machine['processor']}), jax {machine['jax']}")
        print(table(self.rows), flush=True)
        if self._out is not None:
            print(f"Wrote {self._out}.")

    def _content(self) -> dict[str, Any]:
        rows = [{name: _to_json(value) for name, value in row.items()} for row in self.rows]
        return {
            "benchmark": self._name, "command": sys.argv, "environment": environment(),
            "settings": _settings(), "rows": rows,
        }  # fmt: skip


def environment() -> dict[str, Any]:
    """Return the machine and the versions of the software."""
    return provenance.versions() | {
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "platform": jax.default_backend(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
    }


def table(rows: list[dict[str, Value]]) -> str:
    """Format rows as a Markdown table with aligned columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_text(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _text(value: Value) -> str:
    if isinstance(value, Quartiles):
        low, median, high = (_text(v) for v in value)
        return f"{median} ({low} to {high})"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else value


def _to_json(value: Value) -> Any:
    return value._asdict() if isinstance(value, Quartiles) else value


def _settings() -> dict[str, Any]:
    """Return the values of the flags that experiments/ defines."""
    defined = flags.FLAGS.flags_by_module_dict().items()
    ours = (group for module, group in defined if module == sys.argv[0] or module.startswith("experiments."))
    return {flag.name: flag.value for group in ours for flag in group}


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
