"""How fast this machine was: floating-point operations per second of whole training steps, by what was run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sulcnet.errors import SulcnetError
from sulcnet.files import locked
from sulcnet.records._record import Record


@dataclass(frozen=True)
class Speeds(Record):
    """Rates [1/s] by the name of what was timed; those of whole runs also name the step."""

    rates: dict[str, float] = field(default_factory=dict)

    @classmethod
    def kept(cls, path: Path) -> Speeds:
        """Read a file; one that is not there, or damaged, knows nothing."""
        try:
            return cls.load(path)
        except SulcnetError:
            return cls()

    @classmethod
    def keep(cls, path: Path, name: str, rate: float) -> None:
        """Add a rate to a file; a folder that cannot be written costs only the time to measure again."""
        try:
            with locked(path):
                rates = {**cls.kept(path).rates, name: rate}
                cls(rates).save(path)
        except SulcnetError:
            return
