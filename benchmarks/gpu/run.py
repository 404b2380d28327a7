"""Run one part of what is measured on a GPU (gpu.sh calls it; here is how a part is tried without one).

Example:
    SULCNET_TABLES=tables python benchmarks/gpu/run.py memory --device cpu --tiny --most 2
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from _machine import facts  # noqa: E402
from _tables import Tables  # noqa: E402


def parts() -> dict:
    """Name the parts; each takes (tables, args)."""
    import learning
    import memory_rows
    import out_of_memory
    import selftest
    import speed

    return {
        "selftest": selftest.run,
        "memory": memory_rows.memory,
        "convolutions": memory_rows.convolutions,
        "out_of_memory": out_of_memory.run,
        "speed": speed.run,
        "learning": learning.hippocampus,
        "demo": learning.demo,
    }


def main() -> None:
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=known)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pack", type=Path, default=Path(".gpu"))
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="small patches and short runs: does it run at all?",
    )
    parser.add_argument("--most", type=int, help="rows at most")
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        help="rows of `speed` to leave out, because another call had them",
    )
    parser.add_argument(
        "--no-loader",
        action="store_true",
        help="`speed` without the times of the loader",
    )
    args = parser.parse_args()
    tables = Tables(Path(os.environ["SULCNET_TABLES"]), args.part)
    if not tables.markdown.exists():
        for name, fact in facts().items():
            tables.say(f"{name}: {fact}")
    began = time.perf_counter()
    known[args.part](tables, args)
    tables.say(f"\n{args.part}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
