"""Where everything lives: the only file that knows folder and file names and reads environment variables.

Example:
    workspace = Workspace.find(root=None)           # --root, $SULCNET_ROOT, nnU-Net-style variables, ./sulcnet_data
    dataset = workspace.dataset("1")                # also 001, Dataset001_PCS
    dataset.raw / DATASET_JSON
"""

from __future__ import annotations

import difflib
import getpass
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from sulcnet.errors import DataError, ModelError, UsageError
from sulcnet.files import require_writable, writing
from sulcnet.records._record import read_json

DATASET_JSON = "dataset.json"
FINGERPRINT = "fingerprint.json"
PLANS = "plans.json"
SPLITS = "splits.json"
NNUNET_SPLITS = "splits_final.json", "splits_final.pkl"
INTEGRITY = "integrity.json"
SPEEDS = "speed.json"
MEMORY = "memory.json"
IMAGES = "imagesTr"
LABELS = "labelsTr"
IMAGES_TEST = "imagesTs"
LABELS_TEST = "labelsTs"
PARTICIPANTS = "participants.tsv"
PHANTOMS = "phantoms.json"
TRUTH = "truth"
PREDICTIONS = "predictions.tsv"
PREDICTIONS_PART = ".predictions-*.jsonl"
PREDICTIONS_FACTS = "predictions.json"
CASES_TABLE = "cases.tsv"
CLASSES_TABLE = "classes.tsv"
NUMBERS_TABLE = "numbers.tsv"
SUMMARY = "summary.json"
EVALUATION = "evaluation.json"
REGION = "region.json"
FIELD = "field.json"
CALIBRATION = "calibration.json"
EXPERIMENT = "experiment.json"
METRICS = "metrics.jsonl"
RESOURCES = "resources.json"
PROGRESS = "progress.png"
OVERVIEW = "overview.png"
LOG = "log.txt"
EXPORT = "export.pth"
ADAPTER = "adapter.pth"
TRANSFER = "transfer.json"
PICTURES = "pictures"
POOLED = "pooled"
VALIDATION = "validation"
TEST = "test"
SHARED_MEMORY = "/dev/shm"
ANY_DATASET = re.compile(r"^Dataset(\d{3,})_(\w[\w.-]*)$")


@dataclass(frozen=True)
class DatasetFolders:
    """The three folders of one dataset, as one of its plans sees them; plans without a name are the usual ones."""

    name: str
    raw: Path
    preprocessed: Path
    results: Path
    plans_name: str = ""

    @property
    def fingerprint(self) -> Path:
        """The dataset's fingerprint file."""
        return self.preprocessed / FINGERPRINT

    @property
    def plans(self) -> Path:
        """The dataset's plans file: plans.json, or plans_NAME.json."""
        file = Path(PLANS)
        if not self.plans_name:
            return self.preprocessed / file
        return self.preprocessed / f"{file.stem}_{self.plans_name}{file.suffix}"

    def planned(self) -> list[DatasetFolders]:
        """Look at the dataset through each plans file that is there, the usual one first."""
        stem, suffix = Path(PLANS).stem, Path(PLANS).suffix
        stems = [path.stem for path in self.preprocessed.glob(f"{stem}*{suffix}")]
        names = sorted(name.removeprefix(stem).removeprefix("_") for name in stems)
        looks = [replace(self, plans_name=name) for name in names]
        return [folders for folders in looks if folders.plans.exists()]

    @property
    def splits(self) -> Path:
        """The split that every later command reads."""
        return self.preprocessed / SPLITS

    def prepared(self, configuration: str) -> Path:
        """The folder of prepared cases of one configuration; named plans have their own."""
        if self.plans_name:
            return self.preprocessed / f"{configuration}__{self.plans_name}"
        return self.preprocessed / configuration

    def pooled(self, configuration: str, other: str) -> Path:
        """The folder of another dataset's cases, prepared by this dataset's plan to be pre-trained on together."""
        return self.prepared(configuration) / POOLED / other


@dataclass(frozen=True)
class RunFolder:
    """The files of one run; a results folder explains itself and predicts alone."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def checkpoint(self, which: str) -> Path:
        """The tensors of checkpoint `last`, `best` or `final`; its facts lie beside it as JSON."""
        return self.path / f"checkpoint_{which}.pth"

    def plans(self) -> Path:
        """The copied plan."""
        return self.path / PLANS


@dataclass(frozen=True)
class Workspace:
    """The raw, preprocessed and results roots, and the rule that chose them."""

    raw: Path
    preprocessed: Path
    results: Path
    rule: str

    @classmethod
    def find(cls, root: str | Path | None = None) -> Workspace:
        """Choose the folders: `--root`, `$SULCNET_ROOT`, the three variables, `./sulcnet_data`; in this order."""
        parts = "raw", "preprocessed", "results"
        three = [os.environ.get(f"sulcnet_{part}") for part in parts]
        if root is not None:
            rule = "--root"
        elif os.environ.get("SULCNET_ROOT"):
            root, rule = os.environ["SULCNET_ROOT"], "SULCNET_ROOT"
        elif all(three):
            folders = [Path(folder).expanduser() for folder in three]
            return cls(*folders, rule="sulcnet_raw, _preprocessed, _results")
        else:
            root, rule = "sulcnet_data", "./sulcnet_data"
        base = Path(root).expanduser()
        return cls(base / "raw", base / "preprocessed", base / "results", rule)

    def datasets(self) -> list[str]:
        """List the names of all datasets, raw or preprocessed."""
        names = set()
        for base in (self.raw, self.preprocessed):
            if base.is_dir():
                names |= {folder.name for folder in base.iterdir()}
        return sorted(name for name in names if ANY_DATASET.match(name))

    def dataset(self, key: str, plans_name: str | None = None) -> DatasetFolders:
        """Find a dataset by number or name, and look at it through its usual or its named plans.

        Raises:
            DataError: none or more than one fits; the known ones are listed.
        """
        number = int(key) if key.isdecimal() else None
        fits = [
            name for name in self.datasets() if key == name or _number(name) == number
        ]
        if len(fits) == 1:
            return self.folders(fits[0], plans_name or "")
        where = f"{self.raw} (chosen by {self.rule})"
        known = ", ".join(self.datasets()) or "none"
        if fits:
            raise DataError(
                f"Dataset {key} is ambiguous in {where}: {', '.join(fits)}.",
                "Give the full name.",
            )
        raise DataError(
            f"There is no dataset '{key}' in {where}.",
            f"Datasets there: {known}. Another place: --root DIR.",
        )

    def new_dataset(self, key: str, name: str) -> DatasetFolders:
        """Name a dataset that need not be there, by number or full name; a new number is called `name`.

        Raises:
            UsageError: the key is neither.
            DataError: more than one has this number.
        """
        full = f"Dataset{int(key):03d}_{name}" if key.isdecimal() else key
        if not ANY_DATASET.match(full):
            raise UsageError(
                f"'{key}' is no name of a dataset.",
                f"Give a number, or a name such as Dataset900_{name}.",
            )
        there = any(_number(other) == _number(full) for other in self.datasets())
        return self.dataset(key) if there else self.folders(full)

    def folders(self, name: str, plans_name: str = "") -> DatasetFolders:
        """Give the three folders of a dataset by its full name, whether they exist or not."""
        places = self.raw / name, self.preprocessed / name, self.results / name
        return DatasetFolders(name, *places, plans_name)

    def run(
        self, dataset: DatasetFolders, kind: str, what: str, run: str
    ) -> RunFolder:
        """Name the folder of a run; its facts live in its JSON, never in this name."""
        return RunFolder(dataset.results / kind / what / run)

    def runs(self, dataset: DatasetFolders, kind: str) -> list[RunFolder]:
        """List every run of a kind, `train` or `pretrain`, that has an experiment file."""
        files = sorted((dataset.results / kind).glob(f"*/*/{EXPERIMENT}"))
        return [RunFolder(file.parent) for file in files]

    def only_run(self, key: str | None, fold: str | None = None) -> RunFolder:
        """Choose the model to predict with when only a dataset, a fold, or nothing was named.

        Raises:
            ModelError: there is none, or more than one (they are listed).
        """
        names = [self.dataset(key).name] if key else self.datasets()
        runs = []
        for name in names:
            there = self.runs(self.folders(name), "train")
            runs += [run for run in there if _has_model(run) and _is_of(run, fold)]
        if len(runs) == 1:
            return runs[0]
        if not runs:
            raise ModelError(
                f"There is no trained model{f' of fold {fold}' * bool(fold)} in {self.results}.",
                "Train one: sulcnet_train DATASET 3d.",
            )
        listed = "\n      ".join(str(run.path) for run in runs)
        raise ModelError(
            f"{len(runs)} models could be meant.",
            f"Name one with -m:\n      {listed}",
        )


def plugin_folder() -> Path | None:
    """The folder of the user's own plug-ins, `$SULCNET_PLUGINS`."""
    return (
        Path(os.environ["SULCNET_PLUGINS"])
        if os.environ.get("SULCNET_PLUGINS")
        else None
    )


def cache_folder() -> Path:
    """Where caches may be written: `$SULCNET_CACHE`, else this user's folder under the temporary one."""
    if os.environ.get("SULCNET_CACHE"):
        return Path(os.environ["SULCNET_CACHE"])
    return Path(_temporary()) / f"sulcnet_cache_{_uid()}"


def _uid() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _temporary() -> str:
    """Give the folder for temporary files; where there is none, shared memory, for libraries too."""
    import tempfile

    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        os.environ["TMPDIR"] = tempfile.tempdir = SHARED_MEMORY
        return SHARED_MEMORY


def settle_user() -> None:
    """Give this process what libraries ask of its user when they are imported, where the system has none of it.

    A container (`docker run --user 12345`) and a cluster have users without an entry in passwd, whose name MONAI wants
    to know, and homes that are not there or cannot be written, in which matplotlib keeps what it found out about
    fonts. Some containers have no folder for temporary files, without which neither matplotlib nor torch starts. What
    is set stays as it is, and nothing is set for a user who has an entry, a home and such a folder.
    """
    if not os.access("/tmp", os.W_OK):
        _temporary()
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # OSError from Python 3.13 on
        os.environ["USER"] = f"uid{_uid()}"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # neither HOME nor an entry
        home = os.environ["HOME"] = str(cache_folder().absolute())
    chosen = "MPLCONFIGDIR" in os.environ or "XDG_CONFIG_HOME" in os.environ
    if not chosen and not os.access(home, os.W_OK):
        os.environ["MPLCONFIGDIR"] = str(cache_folder().absolute() / "matplotlib")


def memory_tables() -> tuple[Path, Path]:
    """The rows of memory that came with the package, and those that were traced here."""
    return Path(__file__).parents[1] / "memory" / MEMORY, cache_folder() / MEMORY


def speed_table() -> Path:
    """What steps took on the machines that share this cache."""
    return cache_folder() / SPEEDS


def require_path(path: Path, flag: str) -> Path:
    """Give the file or folder back, or say which flag named something that is not there, and what is."""
    if path.is_symlink() and not path.exists():
        raise UsageError(
            f"{flag}: {path} is a link to {os.readlink(path)}, which does not exist.",
            f"Fetch the data first, for example `datalad get {path.name}`.",
        )
    if not path.exists():
        raise UsageError(f"{flag}: {path} does not exist.", _nearest(path.absolute()))
    return path


def require_folder(path: Path, flag: str) -> Path:
    """Give the folder back, or say which flag named none."""
    if not require_path(path, flag).is_dir():
        raise UsageError(
            f"{flag}: {path} is a file, expected a folder.",
            f"Give the folder: {flag} {path.parent}",
        )
    return path


def _nearest(path: Path) -> str:
    """Say how far a path leads, and what it may have meant."""
    there = next(parent for parent in path.parents if parent.is_dir())
    part = path.relative_to(there).parts[0]
    names = (
        [item.name for item in there.iterdir()] if os.access(there, os.R_OK) else []
    )
    near = difflib.get_close_matches(part, names, n=1)
    if near:
        return f"Did you mean {there / near[0]}?"
    return f"There is no {part} in {there}: correct the path."


def make_folder(path: Path) -> Path:
    """Create a folder, or say that the place cannot be written."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def make_writable(path: Path) -> Path:
    """Create a folder that a command is going to write into; ask before the work whether it may."""
    return require_writable(make_folder(path))


def dataset_number(name: str) -> str:
    """Give the digits of a dataset's name: `002` of Dataset002_Other."""
    return ANY_DATASET.match(name).group(1)


def _number(name: str) -> int:
    return int(dataset_number(name))


def _is_of(run: RunFolder, fold: str | None) -> bool:
    return fold in (None, read_json(run / EXPERIMENT, ModelError).get("fold"))


def _has_model(run: RunFolder) -> bool:
    return any(run.checkpoint(which).exists() for which in ("final", "best", "last"))
