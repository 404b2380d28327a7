"""The house rules of docs/architecture.md, checked on the source: floors, "only here", safety, docstrings.

Every rule is a function from a file to what breaks it, and comes with a bad line that it must catch.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from sulcnet.records import workspace

MOST_TOKENS, MOST_COLUMNS, MOST_LINES, MOST_PARAMETERS = 30, 120, 60, 7
TOKENS_PER_LINE = 8.5  # of the package as a whole
PACKAGE = Path(__file__).parents[1] / "sulcnet"
FLOORS = {
    10: {"cli"},
    9: {"report"},
    8: {"runs"},
    7: {"memory", "prediction"},
    6: {"assembly"},
    5: {"pretraining", "tuning", "tasks", "adaptation", "alignment"},
    4: {"training", "inference"},
    3: {"planning", "preprocessing", "data", "evaluation", "measures", "phantoms"},
    2: {"io", "geometry", "networks", "losses"},
    1: {"records", "presets"},
    0: {
        "errors",
        "files",
        "limits",
        "locks",
        "log",
        "options",
        "plugins",
        "processes",
        "parallel",
    },
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
NO_TORCH = FLOORS[0] | {
    "records",
    "presets",
    "io",
    "geometry",
    "planning",
    "preprocessing",
    "evaluation",
    "measures",
    "phantoms",
    "cli",
}
# They write: files.py and locks.py of themselves, the readers under the name that io/files.py gives them.
WRITERS = {"files.py", "locks.py", "io/mgh.py", "io/nifti.py", "io/simpleitk.py"}
SAFE = ("replacing", "writing")
# Methods and functions that write or move a file, whosever they are.
WRITING = {
    "write_text",
    "write_bytes",
    "touch",
    "rename",
    "os.replace",
    "os.truncate",
    "shutil.move",
    "shutil.copy",
    "copy2",
    "copyfile",
    "copytree",
    "tofile",
    "to_filename",
    "savefig",
    "imsave",
    "WriteImage",
    "FileHandler",
    "torch.save",
    "np.save",
    "np.savez",
    "np.savetxt",
    "nib.save",
    "json.dump",
    "pickle.dump",
    "to_csv",
    "symlink_to",
    "hardlink_to",
}
# Every name that workspace.py declares, but not its ordinary words ("test"), which mean other things elsewhere.
FILE_NAMES = {
    value
    for name, value in vars(workspace).items()
    if name.isupper()
    and isinstance(value, str)
    and ("." in value or not value.islower())
}


@dataclass(frozen=True)
class Source:
    """A parsed file and its place: `("networks", "resenc_unet.py")`."""

    parts: tuple[str, ...]
    text: str
    tree: ast.Module

    @classmethod
    def of(cls, place: str, text: str) -> "Source":
        return cls(tuple(place.split("/")), text, ast.parse(text))

    @property
    def room(self) -> str:
        return self.parts[0].removesuffix(".py")

    @property
    def place(self) -> str:
        return "/".join(self.parts)


NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def tokens_of(source: Source) -> Counter[int]:
    """Count the tokens that begin on each line; neither comments nor docstrings are code."""
    docstrings: set[int] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
    lines = (token.start[0] for token in tokens if token.type not in NO_CODE)
    return Counter(line for line in lines if line not in docstrings)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all imports, those inside functions too; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            yield from (
                (node.lineno, f"{package}.{alias.name}") for alias in node.names
            )


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the statements that run when the module is imported, without `if TYPE_CHECKING:` blocks."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if (
            not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and "TYPE_CHECKING" not in ast.dump(node)[:60]
        ):
            waiting += [
                child
                for child in ast.iter_child_nodes(node)
                if isinstance(child, ast.stmt)
            ]


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """Yield calls of `name`, written as `print` or `torch.load`."""
    return (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    )


def downward(source: Source) -> Iterator[tuple[int, str]]:
    """Import downward only; within a floor, only from the file's own room."""
    for line, name in imports(source.tree):
        target = (
            (name.split(".") + [""])[1] if name.split(".")[0] == "sulcnet" else ""
        )
        if name.startswith("."):
            yield line, "relative import"
        elif (
            target in FLOOR
            and target != source.room
            and FLOOR[target] >= max(FLOOR.get(source.room, 99), 1)
        ):
            yield (
                line,
                f"{source.room} (floor {FLOOR[source.room]}) imports {target} (floor {FLOOR[target]})",
            )


def _declared(source: Source) -> str:
    """Name what `_<name>_method.py` or `_<name>_task.py` does the work of; "-" for other files."""
    match = re.fullmatch(r"_(\w+)_(method|task)\.py", source.parts[-1])
    return match[1] if match else "-"


def no_siblings(source: Source) -> Iterator[tuple[int, str]]:
    """A method, strategy or task imports no other one; what they share lies in `_*.py` or below."""
    for line, name in imports(source.tree):
        parts = name.split(".")
        if (
            source.room in FLOORS[5]
            and parts[:2] == ["sulcnet", source.room]
            and not parts[2].startswith(("_", _declared(source)))
        ):
            yield line, f"imports its sibling {parts[2]}"


def only_in(where: Callable[[Source], bool], *modules: str):
    """Make the rule that these modules are imported only where `where` says."""

    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for line, name in imports(source.tree):
            if not where(source) and any(
                name == module or name.startswith(module + ".") for module in modules
            ):
                yield line, f"imports {name}"

    return rule


def in_rooms(*rooms: str) -> Callable[[Source], bool]:
    return lambda source: source.room in rooms


def only_workspace(source: Source) -> Iterator[tuple[int, str]]:
    """Environment variables and file names live in records/workspace.py."""
    if source.place == "records/workspace.py":
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "os.environ",
            "os.getenv",
        ):
            yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.Constant) and node.value in FILE_NAMES:
            yield node.lineno, f"the file name {node.value!r}"
    yield from (
        (line, name)
        for line, name in imports(source.tree)
        if name in ("os.environ", "os.getenv")
    )


def only_cli_talks(source: Source) -> Iterator[tuple[int, str]]:
    """Only cli/ prints and reads sys.argv."""
    if source.room == "cli":
        return
    yield from ((call.lineno, "print") for call in calls(source.tree, "print"))
    yield from (
        (node.lineno, "sys.argv")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv"
    )


def writes(call: ast.Call) -> bool:
    """Tell whether a call writes or moves a file: by its name, by a mode for writing, or as `path.replace(other)`."""
    name = ast.unparse(call.func)
    method = name.rpartition(".")[2]
    if name in WRITING - {"write_text"} or (
        method in WRITING and name != method
    ):  # write_text(path, text) is ours
        return True
    if method == "replace":  # a text's takes two arguments, a record's keywords
        return name != method and len(call.args) == 1 and not call.keywords
    if name == "os.open":
        return any(
            flag in ast.unparse(call) for flag in ("O_CREAT", "O_TRUNC", "O_APPEND")
        )
    given = [
        *call.args[:2],
        *(key.value for key in call.keywords if key.arg == "mode"),
    ]
    modes = [
        each.value
        for each in given
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]
    creates = any(key.arg == "urlpath" for key in call.keywords)
    return creates or (
        method == "open"
        and any(len(mode) <= 3 and set(mode) & set("wax+") for mode in modes)
    )


def written_safely(source: Source) -> Iterator[tuple[int, str]]:
    """A file is written inside `replacing` or `writing` of files.py: never half of it; two lines where that fails."""
    if source.place in WRITERS:
        return
    safe = set()
    for block in ast.walk(source.tree):
        if isinstance(block, ast.With):
            entered = [
                ast.unparse(item.context_expr.func).rpartition(".")[2]
                for item in block.items
                if isinstance(item.context_expr, ast.Call)
            ]
            if set(entered) & set(SAFE):
                safe |= {id(node) for node in ast.walk(block)}
    for call in ast.walk(source.tree):
        if isinstance(call, ast.Call) and id(call) not in safe and writes(call):
            yield (
                call.lineno,
                f"{ast.unparse(call.func)} outside of replacing and writing",
            )


def no_bare_except(source: Source) -> Iterator[tuple[int, str]]:
    """An except names what it expects."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "bare except"


def safe_load(source: Source) -> Iterator[tuple[int, str]]:
    """A checkpoint may not run code when it is opened."""
    for call in calls(source.tree, "torch.load"):
        if not any(
            key.arg == "weights_only" and ast.unparse(key.value) == "True"
            for key in call.keywords
        ):
            yield call.lineno, "torch.load without weights_only=True"


def light_import(source: Source) -> Iterator[tuple[int, str]]:
    """Rooms that work without torch do not import it with the module."""
    for node in at_import(source.tree):
        for line, name in (
            imports(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else ()
        ):
            if source.room in NO_TORCH and name.split(".")[0] in ("torch", "monai"):
                yield line, f"imports {name} with the module"


def no_item_in_steps(source: Source) -> Iterator[tuple[int, str]]:
    """`steps` stays on the device: `.item()` waits for it and breaks planning under fake tensors."""
    for function in ast.walk(source.tree):
        if isinstance(function, ast.FunctionDef) and function.name == "steps":
            for call in ast.walk(function):
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and call.func.attr == "item"
                ):
                    yield call.lineno, ".item() in steps"


def no_preset(source: Source) -> Iterator[tuple[int, str]]:
    """What computes never asks for the preset: its values are options, resolved once when a run begins."""
    for node in ast.walk(source.tree):
        word = getattr(node, "id", getattr(node, "arg", getattr(node, "attr", None)))
        if (
            source.room
            in FLOORS[5] | {"networks", "losses", "data", "training", "inference"}
            and word == "preset"
        ):
            yield node.lineno, "the word preset"


def tasks_have_no_names(source: Source) -> Iterator[tuple[int, str]]:
    """What a task is called, its own file knows; records and tables that hold its answers have it as a key."""
    if source.room in ("tasks", "records", "evaluation", "phantoms"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and node.value in (
            "segmentation",
            "classification",
        ):
            yield node.lineno, f"knows the task {node.value}"


def documented(source: Source) -> Iterator[tuple[int, str]]:
    """Every public module, class and function says what it is; `arguments` and `run` of a command are its HELP."""
    if ast.get_docstring(source.tree) is None:
        yield 1, "module without docstring"
    for node in source.tree.body:
        told = source.room == "cli" and getattr(node, "name", "") in (
            "arguments",
            "run",
        )
        public = (
            isinstance(node, (ast.FunctionDef, ast.ClassDef))
            and not node.name.startswith("_")
            and not told
        )
        if public and ast.get_docstring(node) is None:
            yield node.lineno, f"{node.name} without docstring"


def plain_lines(source: Source) -> Iterator[tuple[int, str]]:
    """A person reads a line at once: at most 30 tokens and 120 columns."""
    for line, count in tokens_of(source).items():
        if count > MOST_TOKENS:
            yield line, f"{count} tokens"
    for line, text in enumerate(source.text.splitlines(), 1):
        if len(text) > MOST_COLUMNS:
            yield line, f"{len(text)} columns"


def one_for_each(source: Source) -> Iterator[tuple[int, str]]:
    """A comprehension has one `for`."""
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for node in ast.walk(source.tree):
        if isinstance(node, comprehensions) and len(node.generators) > 1:
            yield node.lineno, "two `for`s in one comprehension"


def small_functions(source: Source) -> Iterator[tuple[int, str]]:
    """A function has at most 60 lines and, `self` aside, 7 parameters."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        length = node.end_lineno - node.lineno + 1
        names = [
            each.arg
            for each in (
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
            )
        ]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if length > MOST_LINES:
            yield node.lineno, f"{node.name} has {length} lines"
        if count > MOST_PARAMETERS:
            yield node.lineno, f"{node.name} has {count} parameters"


def known_room(source: Source) -> Iterator[tuple[int, str]]:
    """Every file lies on a floor."""
    if source.room not in FLOOR and source.place != "__init__.py":
        yield 1, f"{source.room} is on no floor"


# rule -> (where a bad line could stand, the bad line); the rule must catch it
RULES = {
    "downward": (downward, "records/x.py", "from sulcnet.io import nifti"),
    "downward, inside a function": (
        downward,
        "planning/x.py",
        "def f():\n    import sulcnet.training.loop",
    ),
    "downward, not sideways": (
        downward,
        "tasks/x.py",
        "from sulcnet.tuning import top",
    ),
    "no siblings": (
        no_siblings,
        "tasks/x.py",
        "from sulcnet.tasks.segmentation import head",
    ),
    "NIfTI only in io": (
        only_in(in_rooms("io"), "nibabel", "SimpleITK"),
        "data/x.py",
        "import nibabel as nib",
    ),
    "MONAI only in networks": (
        only_in(in_rooms("networks"), "monai"),
        "losses/x.py",
        "from monai.losses import DiceLoss",
    ),
    "processes": (
        only_in(
            in_rooms("processes", "parallel", "data", "runs"),
            "multiprocessing",
            "concurrent",
            "subprocess",
            "torch.utils.data",
        ),
        "training/x.py",
        "from torch.utils.data import DataLoader",
    ),
    "environment": (only_workspace, "io/x.py", "import os\nos.environ['A']"),
    "environment by name": (only_workspace, "io/x.py", "from os import environ"),
    "file names": (only_workspace, "planning/x.py", "path / 'plans.json'"),
    "folder names": (only_workspace, "planning/x.py", "path / 'imagesTr'"),
    "print": (only_cli_talks, "training/x.py", "print('epoch 1')"),
    "sys.argv": (only_cli_talks, "training/x.py", "import sys\nsys.argv[1]"),
    "write": (
        written_safely,
        "runs/x.py",
        "with path.open('w') as file:\n    file.write('a')",
    ),
    "append": (written_safely, "runs/x.py", "open(path, mode='a')"),
    "write text": (written_safely, "runs/x.py", "(folder / name).write_text('a')"),
    "rename": (written_safely, "runs/x.py", "path.replace(other)"),
    "copy": (written_safely, "runs/x.py", "import shutil\nshutil.copy(path, other)"),
    "a library writes": (written_safely, "report/x.py", "figure.savefig(path)"),
    "blosc2 writes": (
        written_safely,
        "io/x.py",
        "blosc2.asarray(data, urlpath=path, mode='w')",
    ),
    "bare except": (no_bare_except, "io/x.py", "try:\n    a\nexcept:\n    b"),
    "safe load": (safe_load, "training/x.py", "torch.load(path, weights_only=False)"),
    "light import": (
        light_import,
        "evaluation/x.py",
        "try:\n    from torch import nn\nexcept ImportError:\n    nn = 0",
    ),
    "no .item() in steps": (
        no_item_in_steps,
        "tasks/x.py",
        "class A:\n    def steps(self, b):\n        yield b.sum().item()",
    ),
    "no preset": (
        no_preset,
        "tasks/x.py",
        "def loss(logits, preset):\n    return dice if preset == 'paper' else dice_ce",
    ),
    "no preset as an attribute": (
        no_preset,
        "pretraining/x.py",
        "if self.preset == 'paper':\n    a = 1",
    ),
    "tasks have no names": (
        tasks_have_no_names,
        "prediction/x.py",
        "if 'segmentation' in heads:\n    pass",
    ),
    "documented": (documented, "io/x.py", '"""A."""\ndef read():\n    return 1'),
    "documented module": (documented, "io/x.py", "a = 1"),
    "plain lines": (plain_lines, "io/x.py", f"a = [{'1, ' * 20}]"),
    "plain lines, short enough": (plain_lines, "io/x.py", f"a = '{'x' * 120}'"),
    "one for each": (
        one_for_each,
        "io/x.py",
        "a = [cell for row in table for cell in row]",
    ),
    "small functions": (
        small_functions,
        "io/x.py",
        "def f():\n" + "    a = 1\n" * 60,
    ),
    "small functions, few parameters": (
        small_functions,
        "io/x.py",
        "class A:\n    def f(self, a, b, c, d, e, f, g, h):\n        pass",
    ),
    "known room": (known_room, "utils/x.py", "a = 1"),
}
GOOD = '''\
"""A good file."""
import os
from sulcnet.errors import DataError


def read():
    """Read."""
    import torch

    with writing(path), path.open("a") as file:
        file.write("a".replace("a", "b"))
    return torch.load(open(os.devnull, "rb"), weights_only=True)
'''


@cache
def sources() -> list[Source]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [
        Source.of(str(file.relative_to(PACKAGE)), file.read_text()) for file in files
    ]


@pytest.mark.parametrize(
    "name", {rule: name for name, (rule, *_) in RULES.items()}.values()
)
def test_the_source_keeps_the_rule(name):
    rule = RULES[name][0]
    broken = [
        f"sulcnet/{source.place}:{line}: {what}"
        for source in sources()
        for line, what in rule(source)
    ]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize("name", RULES)
def test_the_rule_catches_a_bad_line_and_lets_a_good_file_pass(name):
    rule, place, bad = RULES[name]
    assert list(rule(Source.of(place, bad)))
    assert not list(rule(Source.of("inference/x.py", GOOD)))


def test_every_folder_is_a_package_so_that_it_is_installed():
    rooms = {file.parent for file in PACKAGE.rglob("*.py")}
    assert not [str(room) for room in rooms if not (room / "__init__.py").exists()]


def test_a_line_of_code_holds_one_idea():
    counts = [tokens_of(source) for source in sources()]
    tokens, lines = sum(map(Counter.total, counts)), sum(map(len, counts))
    assert tokens / lines <= TOKENS_PER_LINE, (
        f"{tokens} tokens in {lines} lines of code"
    )


def test_nothing_goes_round_in_circles():
    """Imports inside functions count; those for type checkers alone do not run."""
    names = {
        ".".join(("sulcnet", *source.parts)).removesuffix(".py"): source
        for source in sources()
    }
    graph = {
        name: set(needed(source)) & set(names) - {name}
        for name, source in names.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def needed(source: Source) -> Iterator[str]:
    """Yield the modules that a file imports when it runs: `sulcnet.io.files` of a name from there, too."""
    hidden = [
        node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    aside = {id(child) for node in hidden for child in ast.walk(node)}
    for node in ast.walk(source.tree):
        if id(node) in aside or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for _, name in imports(node):
            yield name
            yield name.rpartition(".")[0]


def test_a_circle_is_seen():
    graph = {
        "a": set(needed(Source.of("a.py", "def f():\n    from b import g"))),
        "b": {"a"},
    }
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()
    source = Source.of("a.py", "if TYPE_CHECKING:\n    from b import g")
    assert not list(needed(source))
