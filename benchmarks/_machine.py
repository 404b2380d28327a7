"""Print what every table of docs/benchmarks.md must stand under: date, machine, versions.

Example:
    python benchmarks/_machine.py
"""

import datetime
import platform
import re
from importlib.metadata import version
from pathlib import Path

from sulcnet import limits


def processor() -> str:
    """Name the processor and count the cores that are ours; Linux tells its name, others their architecture."""
    told = Path("/proc/cpuinfo")
    name = (
        re.search(r"model name\s*: (.+)", told.read_text()) if told.exists() else None
    )
    return f"{name[1] if name else platform.machine()}, {limits.cores()} cores"


def graphics() -> str:
    """Name the GPUs and their memory."""
    import torch

    cards = [
        torch.cuda.get_device_properties(number)
        for number in range(torch.cuda.device_count())
    ]
    return (
        "; ".join(
            f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards
        )
        or "no GPU"
    )


def facts() -> dict[str, str]:
    """Give date, machine and versions; sulcnet itself may run from its checkout, without being installed."""
    from sulcnet import __version__

    versions = [f"{name} {version(name)}" for name in ("torch", "monai", "numpy")]
    return {
        "date": str(datetime.date.today()),
        "machine": f"{processor()}; {graphics()}",
        "versions": f"Python {platform.python_version()}, sulcnet {__version__}, {', '.join(versions)}",
    }


def main() -> None:
    """Print the lines as a Markdown table."""
    for number, (name, fact) in enumerate(facts().items()):
        print(f"| {name} | {fact} |" + "\n|---|---|" * (number == 0))
    print()


if __name__ == "__main__":
    main()
