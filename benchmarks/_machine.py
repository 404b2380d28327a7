"""Print what every table of docs/benchmarks.md must stand under: date, machine, versions.

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
    facts = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.+)", facts.read_text()) if facts.exists() else None
    return f"{name[1] if name else platform.machine()}, {limits.cores()} cores"


def graphics() -> str:
    """Name the GPUs and their memory."""
    import torch

    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return "; ".join(f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards) or "no GPU"


def main():
    """Print the lines as a Markdown table."""
    versions = [f"{name} {version(name)}" for name in ("sulcnet", "torch", "monai", "numpy")]
    print(f"| date | {datetime.date.today()} |\n|---|---|\n| machine | {processor()}; {graphics()} |")
    print(f"| versions | Python {platform.python_version()}, {', '.join(versions)} |\n")


if __name__ == "__main__":
    main()
