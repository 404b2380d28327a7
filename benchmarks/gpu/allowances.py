"""What the planner must allow for, from the rows of a GPU: the largest overhead of each network, and the context.

    python benchmarks/gpu/allowances.py benchmarks/gpu/measured/h100_2026-11-27.tsv

A step surely runs with the smaller of two: the factor of what was foreseen with which it ran on a card that was limited
to it, and what the allocator took without a limit.
"""

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

CUBLAS = 66.0  # MiB: cuBLAS's workspaces, which every row has beside its own


def read(path: Path) -> dict[str, dict[str, str]]:
    """Read the rows of part `memory`, {row: {column: value}}."""
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file, delimiter="\t"):
            if line["part"] == "memory":
                rows[line["row"]][line["column"]] = line["value"]
    return rows


def enough(row: Mapping[str, str]) -> float:
    """Give MiB with which the step surely runs."""
    reserved = float(row["reserved"])
    survived = row["survives"]
    return (
        reserved
        if survived.startswith("over")
        else min(reserved, float(survived) * float(row["foreseen"]))
    )


def overheads(rows: Mapping[str, Mapping[str, str]]) -> dict[tuple[str, str], float]:
    """Give, per network and what is recomputed, the largest share of what was foreseen that a row needed."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for name, row in rows.items():
        if "foreseen" in row:
            again = re.search(r"recompute (\w+)", name)
            kind = name.split(",")[0], again[1] if again else "none"
            found[kind] = max(
                found[kind], (enough(row) - CUBLAS) / float(row["foreseen"])
            )
    return dict(found)


def main() -> None:
    """Print both."""
    rows = read(Path(sys.argv[1]))
    for (network, recompute), overhead in overheads(rows).items():
        print(f"{network:<16} {recompute:<10} {overhead:.3f}")
    context = float(rows["context after all of these"]["MiB"]) + CUBLAS
    print(f"{'context':<27} {context:.0f} MiB with cuBLAS's workspaces")


if __name__ == "__main__":
    main()
