"""Errors a user can act on: two lines (what is wrong; what to do next) and an exit code.

Foreign errors are wrapped in one of these at the border of the package, so that `cli/` can print two lines
for everything that is expected to go wrong and keep tracebacks for what is not.
"""

import re


class SulcnetError(Exception):
    """Stop with a message that names what, where, found and expected, and a hint that says what to do next."""

    exit_code = 1
    strange = False  # of a file: keys that this version does not know

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self):
        # A worker process returns its error by pickling it; the default would drop the hint.
        return type(self), (self.message, self.hint)


class UsageError(SulcnetError):
    """A flag, a name or an option value is wrong."""

    exit_code = 2
    wrong: list[str] = []  # one by one, where a message gathers several


class EnvironmentFault(SulcnetError):
    """The machine lacks something: a GPU that was asked for, a writable folder, shared memory."""

    exit_code = 3


class MissingPackage(EnvironmentFault):
    """A package that sulcnet needs is not installed, or cannot be loaded."""

    @classmethod
    def of(cls, problem: ImportError) -> "MissingPackage | None":
        """Explain a failed import; None where the fault is in this package's own code."""
        # Libraries that import by themselves tell the name in words only.
        told = re.search(r"No module named '([\w.]+)'", str(problem))
        name = problem.name or (told[1] if told else "")
        package = name.partition(".")[0]
        if package in ("", "sulcnet"):
            return None
        wanted = _requirement(package)
        if isinstance(problem, ModuleNotFoundError):
            said = f"The package {package} is not installed."
        else:
            said = f"The package {package} cannot be loaded: {problem}."
        return cls(said, f'Install it: pip install "{wanted}"')


def _requirement(package: str) -> str:
    """Write what sulcnet asks of a package, version and all; its name where sulcnet is not installed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("sulcnet") or []
    except PackageNotFoundError:
        lines = []
    for line in lines:
        requirement = line.partition(";")[0].strip()
        name = re.split(r"[^\w.-]", requirement)[0]
        if name.lower().replace("-", "_") == package.lower().replace("-", "_"):
            return requirement
    return package


class DataError(SulcnetError):
    """A dataset, an image or a table is wrong."""

    exit_code = 4


class ModelError(SulcnetError):
    """A plan, model or checkpoint is missing or does not fit."""

    exit_code = 5


class OutOfMemory(SulcnetError):
    """Memory ran out after all fall-backs."""

    exit_code = 6


class PartlyDone(SulcnetError):
    """Some cases failed; the message lists them, the others are finished."""

    exit_code = 7


class Meaningless(SulcnetError):
    """All was done, and what came out is no better than chance."""

    exit_code = 7


class Interrupted(SulcnetError):
    """The run was stopped from outside, saved its state and can be resumed."""

    exit_code = 130
