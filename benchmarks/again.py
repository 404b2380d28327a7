"""What keeping rows costs: many cases predicted into one folder, a row at a time, and nothing predicted at all.

python benchmarks/again.py 3000
"""

import sys
import tempfile
import time
from pathlib import Path

from sulcnet.prediction.table import gather, kept, read_rows

COLUMNS = ["case_id", "class", "p_absent", "p_present", "qc_flag", "qc_reason"]


def main(count: int) -> None:
    """Keep two rows per case, as a prediction does, and look before each whether another process has it."""
    with tempfile.TemporaryDirectory() as place:
        folder, began = Path(place), time.perf_counter()
        with kept(folder, COLUMNS) as keep:
            for number in range(count):
                read_rows(folder)
                row = {"case_id": f"sub-{number:05d}", "p_absent": "0.1234"}
                keep({**row, "qc_flag": "failed", "qc_reason": "begun"})
                keep({**row, "qc_flag": "ok"})
        spent = time.perf_counter() - began
        print(f"{count} cases: {1000 * spent / count:.1f} ms each", end=", ")
        began = time.perf_counter()
        rows = gather(folder)
        print(f"{len(rows)} rows read in {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]))
