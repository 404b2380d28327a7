"""The summary of an evaluation as a short plain-text table for the terminal."""

from collections.abc import Iterable, Sequence

from sulcnet.evaluation import CLEAR, FOUND
from sulcnet.evaluation.segmentation import VOXEL, overlaps_of
from sulcnet.evaluation.summary import WHERE_PRESENT
from sulcnet.log import counted, listed

MARGIN = "  "
UNDEFINED = "-"
RELIABLE = (
    10  # subjects from which resampling them says how far the estimate may be off
)
CLASS_LINES = (
    ("accuracy", "accuracy"),
    ("balanced accuracy", "balanced_accuracy"),
    ("macro F1", "macro_f1"),
    ("AUROC", "auroc"),
    ("kappa", "kappa"),
    ("Brier score", "brier"),
    ("calibration error", "calibration_error"),
)


def format_summary(summary: dict) -> str:
    """Return the tables of a summary: structures where they are present, then all cases, notes, then the class scores.

    Args:
        summary: What `summarise` returned or `read_summary` read.
    """
    blocks = [_headline(summary)]
    if summary["structures"]:
        blocks += [_present(summary), _everywhere(summary), _notes(summary)]
    if summary["classification"]:
        block = summary["classification"]
        blocks += [_class_scores(block), _confusion(block)]
    if summary.get("numbers"):
        numbers = summary["numbers"].items()
        rows = [
            (name, _interval(block), f"n {block['n']}") for name, block in numbers
        ]
        blocks.append(_aligned(rows))
    return "\n\n".join(blocks)


def _headline(summary: dict) -> str:
    level = f"{100 * summary['interval']['level']:g} %"
    text = f"{counted(summary['cases'], 'case')} of {counted(summary['subjects'], 'subject')}"
    text += f"; [low, high] is the {level} bootstrap interval over subjects"
    if 1 < summary["subjects"] < RELIABLE:
        text += f"\nFewer than {RELIABLE} subjects: the intervals are not reliable, however narrow they are."
    missing = summary["missing_cases"]
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        number = counted(len(missing), "prediction")
        text += f"\n{number} missing, in none of the means: {shown}"
    return text


def _present(summary: dict) -> str:
    """Return what is scored where the reference has the structure."""
    structures = summary["structures"]
    overlaps = _other_overlaps(next(iter(structures.values())))
    titles = [_title(name) for name in overlaps]
    rows = [("where present", "n", "Dice", *titles, "ASSD mm", "HD95 mm")]
    for name, block in structures.items():
        dice = block["dice" + WHERE_PRESENT]
        values = [block[key + WHERE_PRESENT]["mean"] for key in overlaps]
        cells = [_value(value, 3) for value in values]
        for key in ("assd_mm", "hd95"):
            cells.append(_value(block[key]["median" + WHERE_PRESENT], 2))
        rows.append((name, str(dice["n"]), _interval(dice), *cells))
    mean = summary["dice" + WHERE_PRESENT]
    if len(mean["over"]) > 1:
        others = [""] * (len(overlaps) + 2)
        rows.append(("mean", str(mean["n"]), _interval(mean), *others))
    return _aligned(rows, right=(1, *range(3, len(rows[0]))))


def _everywhere(summary: dict) -> str:
    """Return what masks say of presence, and the scores to which a structure that nobody has contributes too."""
    rows = [("all cases", "sensitivity", "n", "specificity", "n", "Dice", "n")]
    for name, block in summary["structures"].items():
        row = [name]
        for key in (FOUND, CLEAR, "dice"):
            row += [_interval(block[key]), str(block[key]["n"])]
        rows.append(tuple(row))
    return _aligned(rows, right=(2, 4, 6))


def _other_overlaps(block: dict) -> list[str]:
    names = overlaps_of(block)
    return [
        name
        for name in names
        if name not in ("dice", "iou") and not name.endswith(WHERE_PRESENT)
    ]


def _title(name: str) -> str:
    return name.replace("_", " ").replace("dice", "Dice")


def _notes(summary: dict) -> str:
    mean, tolerance = summary["dice" + WHERE_PRESENT], summary["tolerance_mm"]
    lines = [
        "where present: cases whose reference has the structure; ASSD, HD95: medians"
    ]
    if len(mean["over"]) > 1:
        lines.append(f"mean: of the rows of {listed(mean['over'])}")
    lines += [
        "sensitivity, specificity: of presence, by a mask of any voxel",
        "Dice of all cases: 1 for no mask where there is none, so no measure of how well it is found",
    ]
    if tolerance is not None:
        lines += _about_tolerance(summary, tolerance)
    return "\n".join(lines)


def _about_tolerance(summary: dict, tolerance: float) -> list[str]:
    """Say what the surface Dice counts, and where its tolerance forgives a voxel."""
    lines = [f"surface Dice: share of the surfaces within {tolerance:g} mm"]
    voxel = min(block[VOXEL] for block in summary["structures"].values())
    if tolerance >= voxel:
        lines.append(
            f"  a voxel's shortest edge is {voxel:g} mm: one voxel off still counts as right; see ASSD and HD95"
        )
    return lines


def _class_scores(block: dict) -> str:
    left_out = [
        (block["unknown"], "of unknown class"),
        (block["without_prediction"], "without a prediction"),
    ]
    extra = "".join(f", {n} {what}" for n, what in left_out if n)
    rows = []
    for label, key in CLASS_LINES:
        if key in block:
            rows.append((label, _interval(block[key], "estimate")))
    text = f"class, {counted(block['n'], 'case')}{extra}\n" + _aligned(rows)
    return "\n".join([text, *_about_calibration(block)])


def _about_calibration(block: dict) -> list[str]:
    """Say which cases Brier score and calibration error are of."""
    about = block.get("calibration")  # summaries of before have none
    if not about or not about["fitted_on"]:
        return []
    fitted, rest = counted(about["fitted_on"], "case"), counted(about["n"], "case")
    lines = [f"the temperature of the probabilities was fitted on {fitted} of these:"]
    return [*lines, f"  Brier score and calibration error are of the other {rest}"]


def _confusion(block: dict) -> str:
    rows = [("truth \\ predicted", *block["classes"])]
    for name, counts in zip(block["classes"], block["confusion"], strict=True):
        rows.append((name, *map(str, counts)))
    return _aligned(rows, right=range(1, len(rows)))


def _interval(block: dict, key: str = "mean") -> str:
    if block["low"] is None:
        return _value(block[key], 3)
    return f"{_value(block[key], 3)} [{_value(block['low'], 3)}, {_value(block['high'], 3)}]"


def _value(value: float | str | None, digits: int) -> str:
    if value is None:
        return UNDEFINED
    return value if isinstance(value, str) else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Return the rows with their columns aligned; the columns in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = set(right)
    lines = []
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cells.append(cell.rjust(width) if column in right else cell.ljust(width))
        lines.append(MARGIN.join(cells).rstrip())
    return "\n".join(lines)
