"""Errors a user can act on: two lines (what is wrong; what to do next) and an exit code.

Foreign errors are wrapped in one of these at the border of the package, so that `cli/` can print two lines
for everything that is expected to go wrong and keep tracebacks for what is not.
"""


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


class Interrupted(SulcnetError):
    """The run was stopped from outside, saved its state and can be resumed."""

    exit_code = 130
