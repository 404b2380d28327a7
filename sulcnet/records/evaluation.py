"""What scores were made of, so that those of other predictions do not take their place unasked."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.records._record import Record


@dataclass(frozen=True)
class Evaluation(Record):
    """One evaluation: its folders, and of each case what tells its files from others.

    `model` says who predicted, as far as the table of predictions tells; `contents` holds a hash per case of its mask,
    its reference and its row.
    """

    written_by = "sulcnet_evaluate --overwrite"

    predictions: str
    model: str
    references: str
    contents: dict[str, str]
    schema: int = 1

    def difference(self, other: Evaluation) -> tuple[str, str]:
        """Give what differs, here and there; cases that only one of the two has are no difference."""
        for name in ("predictions", "model", "references"):
            here, there = getattr(self, name), getattr(other, name)
            if here != there:
                return f"{name} {here or 'none'}", f"{name} {there or 'none'}"
        for case in sorted(self.contents.keys() & other.contents.keys()):
            here, there = self.contents[case], other.contents[case]
            if here != there:
                return f"{case} ({here})", f"{case} ({there})"
        return "", ""
