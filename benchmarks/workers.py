"""How long two workers take to start: those of map_cases, and those that draw a run's batches.

    python benchmarks/workers.py --rounds 5

Every round is a process of its own: its first use starts the server that workers are forked from, its second does not.
"""

import argparse
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from statistics import median

from _machine import main as describe_machine

ROWS = ("cases", "batches")


def double(number: int) -> int:
    """What costs nothing."""
    return 2 * number


def cases() -> None:
    """Run two cases in two workers."""
    from sulcnet.parallel import map_cases

    assert len(list(map_cases(double, range(2), 2))) == 2


def zeros(step: int) -> tuple:
    """Draw a batch that costs nothing."""
    import torch

    return (torch.zeros(2, 1, 32, 32, 32),)


def batches() -> None:
    """Take two batches: the first is drawn by the run itself, the second by a worker."""
    from sulcnet.data._workers import drawn

    with closing(drawn(partial(zeros), 0, 2, False, 2)) as found:
        next(found)
        next(found)


def one(row: str) -> None:
    """Time a first and a second use."""
    act = {"cases": cases, "batches": batches}[row]
    if row == "batches":
        import torch  # noqa: F401  a run has it by then

        import sulcnet.data._workers  # noqa: F401
    else:
        import sulcnet.parallel  # noqa: F401
    for _ in range(2):
        began = time.perf_counter()
        act()
        print(time.perf_counter() - began)


def main() -> None:
    """Print a row per kind of worker."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--one", choices=ROWS, help="one round (what the script starts)"
    )
    args = parser.parse_args()
    if args.one:
        return one(args.one)
    describe_machine()
    print("| two workers for | first use, s | again, s |\n|---|---|---|")
    for row in ROWS:
        command = [sys.executable, __file__, "--one", row]
        rounds = [
            subprocess.run(
                command, check=True, capture_output=True, text=True
            ).stdout.split()
            for _ in range(args.rounds)
        ]
        first, again = (
            median(float(times[place]) for times in rounds) for place in (0, 1)
        )
        print(f"| {row} | {first:.2f} | {again:.3f} |", flush=True)


if __name__ == "__main__":
    main()
