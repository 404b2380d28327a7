"""What every command shares: strict flags, errors in two lines, exit codes, and flags that mean the same everywhere.

Example:
    HELP = "Predict a folder of images."            # a file sulcnet/cli/<job>.py is this
    EXAMPLES = "sulcnet_predict -i images -o out"

    def arguments(parser: Parser) -> None:
        parser.add_argument("-i", "--input", required=True, help="a folder, a file or a BIDS root")
        add_device(parser)

    def run(args: Namespace) -> str | None:
        from sulcnet.inference.predictor import ...   # heavy imports here, so that --help stays fast
        return "Masks and predictions.tsv: out\\nEvaluate them: sulcnet_evaluate ..."

    COMMAND = Command(HELP, arguments, run, EXAMPLES)
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import textwrap
import threading
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
    _ArgumentGroup,
)
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sulcnet import __version__, log, plugins
from sulcnet.cli._nnunet import ELSEWHERE
from sulcnet.errors import (
    EnvironmentFault,
    Interrupted,
    MissingPackage,
    OutOfMemory,
    SulcnetError,
    UsageError,
)
from sulcnet.files import REFUSED, write_fault
from sulcnet.parallel import default_workers
from sulcnet.records import workspace

WIDTH = 100
BROKEN_PIPE = (
    141  # what the shell reports for a program that the reader of its output left
)
PATIENCE = (
    3.0  # seconds of silence after which a user wonders whether anything happens
)
SETTINGS = "options of --set"
AGAIN = "Run the same command again."
TORCH_OUT_OF_MEMORY = "OutOfMemoryError"  # by name: torch may not be imported
SMALLER_PLAN = "a smaller plan (sulcnet_plan --gpu-memory GB)"
OUT_OF_MEMORY_HINT = (
    f"Use fewer --workers, {SMALLER_PLAN}, or a machine with more memory."
)

logger = logging.getLogger("sulcnet")


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where the program was: what cleans up after Ctrl-C cleans up after it too."""


class Parser(ArgumentParser):
    """An argument parser that refuses what it does not know, in two lines, and keeps its flags in named groups."""

    def __init__(self, name: str, help: str, examples: str = ""):
        width = min(WIDTH, shutil.get_terminal_size().columns)
        epilog = None
        if examples:
            indented = textwrap.indent(textwrap.dedent(examples).strip(), "  ")
            epilog = f"example:\n{indented}"
        super().__init__(
            prog=name,
            description=textwrap.fill(" ".join(help.split()), width),
            epilog=epilog,
            formatter_class=partial(
                RawDescriptionHelpFormatter, max_help_position=32, width=width
            ),
            allow_abbrev=False,
            add_help=False,
        )
        self._named: dict[str, _ArgumentGroup] = {}

    def group(self, title: str) -> _ArgumentGroup:
        """Give the group of flags with this title, made at the first call."""
        if title not in self._named:
            self._named[title] = self.add_argument_group(title)
        return self._named[title]

    def format_help(self) -> str:
        """Show the command's own groups first, those that every command has last."""
        last = {"machine": 1, "general": 2, SETTINGS: 3}
        self._action_groups.sort(key=lambda group: last.get(group.title, 0))
        return super().format_help()

    def parse_args(self, args=None, namespace=None) -> Namespace:
        """Parse, after refusing flags that do not exist: argparse would read `-chkk` as `-c hkk`."""
        args = sys.argv[1:] if args is None else list(args)
        for flag in self._unknown(args):
            if flag in ELSEWHERE:
                raise UsageError(
                    f"{flag} is nnU-Net's: {self.prog} has none.", ELSEWHERE[flag]
                )
            self.error(f"There is no flag '{flag}'{self._nearest(flag)}")
        return super().parse_args(args, namespace)

    def error(self, message: str):
        """Raise what `Command` prints in two lines, instead of a page of usage."""
        raise UsageError(_sentence(message), f"All flags: {self.prog} --help")

    def _unknown(self, args: list[str]) -> Iterator[str]:
        options = args[: args.index("--")] if "--" in args else args
        flags = [
            text.partition("=")[0] for text in options if re.match(r"-[^\d.]", text)
        ]
        return (flag for flag in flags if flag not in self._option_string_actions)

    def _nearest(self, flag: str) -> str:
        near = difflib.get_close_matches(
            flag, self._option_string_actions, n=1, cutoff=0.5
        )
        return f"; did you mean {near[0]}?" if near else "."


class Command:
    """A command: `sulcnet_<job>` calls it, tests call it with a list of arguments; it gives the exit code."""

    def __init__(
        self,
        help: str,
        arguments: Callable[[Parser], None],
        run: Callable[[Namespace], str | None],
        examples: str = "",
        name: str = "",
        again: str = AGAIN,
    ):
        self.help = help
        self.arguments = arguments
        self.run = run
        self.examples = examples
        self.again = again
        self.name = name or "sulcnet_" + run.__module__.rpartition(".")[2].rstrip("_")

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Parse, run, print the closing lines, and turn every way to fail into two lines and an exit code."""
        argv = list(sys.argv[1:] if argv is None else argv)
        try:
            with _terminable():
                code = self._run(argv)
            sys.stdout.flush()  # here, not at exit, where a closed pipe would print a complaint
            return code
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        except KeyboardInterrupt as stop:
            by = "by SIGTERM" if isinstance(stop, Terminated) else "from the keyboard"
            return _report(Interrupted(f"Interrupted {by}.", self.again), argv)
        except Exception as problem:
            return _report(problem, argv)

    def parser(self) -> Parser:
        """Build the parser: the command's own flags and those that every command has."""
        parser = Parser(self.name, self.help, self.examples)
        self.arguments(parser)
        group = parser.group("general")
        group.add_argument(
            "--debug", action="store_true", help="show tracebacks and every log line"
        )
        group.add_argument(
            "--version",
            action="version",
            version=f"sulcnet {__version__}",
            help="show the version",
        )
        group.add_argument("-h", "--help", action="help", help="show this text")
        return parser

    def _run(self, argv: list[str]) -> int:
        folder = workspace.plugin_folder()
        if folder is not None:
            plugins.add_folder(folder)
        try:
            args = self.parser().parse_args(argv)
        except SystemExit as leave:  # --help and --version
            return int(leave.code or 0)
        quiet = getattr(args, "quiet", False)
        log.start(quiet, args.debug)
        closing = self.run(args)
        if closing and not quiet and not getattr(args, "json", False):
            print(closing)
        return 0


def next_command(args: Namespace, *words: object) -> str:
    """Write a command to type next, with the --root that this one was given."""
    return " ".join([shlex.join(map(str, words)), root_flag(args)]).rstrip()


def root_flag(args: Namespace) -> str:
    """Write --root as it was given, "" where it was not."""
    return shlex.join(["--root", args.root]) if getattr(args, "root", None) else ""


@contextmanager
def loading(what: str, patience: float = PATIENCE) -> Iterator[None]:
    """Say what is being loaded, if it takes so long that the silence would worry."""
    timer = threading.Timer(patience, lambda: logger.info("loading %s ...", what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def add_root(parser: Parser) -> None:
    """Add --root, the folder that holds raw, preprocessed and results."""
    parser.group("general").add_argument(
        "--root",
        metavar="DIR",
        help="folder of raw, preprocessed and results (default: $SULCNET_ROOT; else the three folders that "
        "$sulcnet_raw, $sulcnet_preprocessed and $sulcnet_results name; else ./sulcnet_data)",
    )


def add_dataset(parser: Parser, required: bool = True) -> None:
    """Add -d, the dataset by number or name."""
    parser.add_argument(
        "-d",
        "--dataset",
        metavar="ID",
        required=required,
        help="dataset: 1, 001 or Dataset001_PCS",
    )


def add_plans(parser: Parser) -> None:
    """Add -p, plans beside the usual ones."""
    parser.add_argument(
        "-p",
        "--plans-name",
        type=_plans_name,
        metavar="NAME",
        help="plans of this name, beside the usual ones (plans_NAME.json)",
    )


def plans_flag(args: Namespace) -> tuple[str, ...]:
    """Write -p as it was given, nothing where it was not."""
    return ("-p", args.plans_name) if args.plans_name else ()


def add_device(parser: Parser) -> None:
    """Add --device."""
    parser.group("machine").add_argument(
        "--device",
        "-device",
        default="auto",
        type=_device,
        metavar="DEVICE",
        help="auto (a GPU where there is one), cpu, cuda, cuda:N or mps (default: auto)",
    )


def add_seed(parser: Parser) -> None:
    """Add --seed, from which every random draw follows."""
    parser.group("machine").add_argument(
        "--seed",
        type=natural,
        default=0,
        metavar="N",
        help="random seed (default: 0)",
    )


def add_workers(parser: Parser) -> None:
    """Add -np/--workers, the number of processes."""
    parser.group("machine").add_argument(
        "-np",
        "--workers",
        type=positive,
        default=default_workers(),
        metavar="N",
        help="processes (default: the cores, at most 8, at most one per GB of memory)",
    )


def add_quiet(parser: Parser) -> None:
    """Add --quiet."""
    parser.group("general").add_argument(
        "--quiet", action="store_true", help="show warnings and errors only"
    )


def add_json(parser: Parser) -> None:
    """Add --json; the command then prints JSON to standard output and nothing else."""
    parser.group("general").add_argument(
        "--json", action="store_true", help="print JSON instead of text"
    )


def add_overwrite(parser: Parser) -> None:
    """Add --overwrite."""
    parser.group("general").add_argument(
        "--overwrite", action="store_true", help="redo what is already finished"
    )


def add_set(parser: Parser) -> None:
    """Add --set key=value, an option of the chosen method; may be repeated."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option, listed below; may be repeated",
    )


def list_options(parser: Parser, table: Sequence[tuple[str, str, str]]) -> None:
    """List below the flags what --set changes: name=default and meaning, as `plugins.options_table` reads them."""
    texts = [(f"{name}={default}", meaning) for name, default, meaning in table]
    widest = max((len(text) for text, _ in texts), default=0)
    across = max(min(WIDTH, shutil.get_terminal_size().columns) - 2, widest + 20)
    lines = []
    for text, meaning in texts:
        start = f"{text:<{widest}}  "
        below = " " * len(start)
        lines.append(
            textwrap.fill(
                meaning, across, initial_indent=start, subsequent_indent=below
            )
        )
    parser.group(SETTINGS).description = "\n".join(lines)


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` as long as the block runs; nothing in a thread, where no handler can be set.

    A forked worker inherits the handler until it has set its own: there the signal has to kill, as it always did.
    """
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _report(problem: BaseException, argv: Sequence[str]) -> int:
    """Print two lines for a failure and give its exit code."""
    if "--debug" in argv:
        import traceback

        traceback.print_exception(type(problem), problem, problem.__traceback__)
    message, hint, code = _explained(problem)
    print(f"error: {message}\n next: {_with_root(hint, argv)}", file=sys.stderr)
    return code


def _with_root(hint: str, argv: Sequence[str]) -> str:
    """Say that the command which a hint names needs the same --root; the lower floors do not know of it."""
    given = [value for flag, value in zip(argv, argv[1:]) if flag == "--root"]
    given += [text.partition("=")[2] for text in argv if text.startswith("--root=")]
    if not given or "--root" in hint or not re.search(r"\bsulcnet_\w+ -d ", hint):
        return hint
    return f"{hint} (and {shlex.join(['--root', given[-1]])})"


def _explained(problem: BaseException) -> tuple[str, str, int]:
    if isinstance(problem, SulcnetError):
        hint = problem.hint or "Run again with --debug to see where it happened."
        return problem.message, hint, problem.exit_code
    if isinstance(problem, OSError) and _is_refusal(problem):
        return _explained(_refused(problem))
    if isinstance(problem, ImportError):
        missing = MissingPackage.of(problem)
        if missing:
            return _explained(missing)
    kind = type(problem).__name__
    said = " ".join(str(problem).split())
    if isinstance(problem, MemoryError) or kind == TORCH_OUT_OF_MEMORY:
        message = f"Memory ran out: {said.removesuffix('.') or kind}."
        return message, OUT_OF_MEMORY_HINT, OutOfMemory.exit_code
    return (
        f"{kind}: {said}",
        "Run again with --debug for the traceback and report it.",
        1,
    )


def _is_refusal(problem: OSError) -> bool:
    return problem.errno in REFUSED or _nowhere_temporary(problem)


def _refused(problem: OSError) -> EnvironmentFault:
    """Explain what the system refused, where nobody below did; of a copy's two names the second was written."""
    name = problem.filename2 or problem.filename
    if isinstance(name, str):
        return write_fault(Path(name), problem, "read or written")
    if _nowhere_temporary(problem):
        return EnvironmentFault(
            "There is no folder for temporary files that can be written.",
            "Name one with TMPDIR (in a container: docker run --tmpfs /tmp).",
        )
    return EnvironmentFault(
        f"A file cannot be written: {problem.strerror}.",
        "Free some space, or check the disks.",
    )


def _nowhere_temporary(problem: OSError) -> bool:
    """Tell the error of tempfile, which has tried every folder it knows, also as the cause of another."""
    return "No usable temporary directory" in f"{problem} {problem.__cause__}"


def _sentence(message: str) -> str:
    message = " ".join(message.split())
    if not message.endswith((".", "?")):
        message += "."
    return message[:1].upper() + message[1:]


def _plans_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", text):
        raise ArgumentTypeError(
            f"expected letters, digits, dots and dashes, found '{text}'"
        )
    return text


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise ArgumentTypeError(
            f"expected auto, cpu, cuda, cuda:N or mps, found '{text}'"
        )
    return text


def positive(text: str) -> int:
    """Read a whole number from 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """Read a whole number from 0."""
    return _whole(text, 0)


def amount(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"expected a number above 0, found '{text}'")
    return value


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ArgumentTypeError(
            f"expected a whole number from {least}, found '{text}'"
        )
    return int(text)
