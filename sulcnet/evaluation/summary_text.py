"""The summary of an evaluation as a short plain-text table for the terminal."""

from collections.abc import Iterable, Sequence

from sulcnet.log import counted

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
)


def format_summary(summary: dict) -> str:
    """Return the table of a summary: a row per structure, then the class scores, then what the columns mean.

    Args:
        summary: What `summarise` returned or `read_summary` read.
    """
    blocks = [_headline(summary)]
    if summary["structures"]:
        blocks += [_structures(summary), _notes(summary)]
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


def _structures(summary: dict) -> str:
    everywhere = ("Dice", "surface Dice", "HD95 mm", "n")
    where_both = ("HD95 both", "n")
    where_present = ("Dice where present", "n")
    rows = [("structure", *everywhere, *where_both, *where_present)]
    rows += [_structure(name, block) for name, block in summary["structures"].items()]
    if len(rows) > 2:
        mean, present = summary["mean_dice"], summary["dice_where_present"]
        everywhere = (_interval(mean), "", "", str(mean["n"]))
        where_present = (_interval(present), str(present["n"]))
        rows.append(("mean", *everywhere, "", "", *where_present))
    return _aligned(rows, right=(2, 3, 4, 5, 6, 8))


def _structure(name: str, block: dict) -> tuple[str, ...]:
    dice, hd95, present = block["dice"], block["hd95"], block["dice_where_present"]
    everywhere = (
        _interval(dice),
        _value(block["surface_dice"]["mean"], 3),
        _value(hd95["median"], 2),
        str(dice["n"]),
    )
    where_both = (_value(hd95["mean"], 2), str(hd95["n_both"]))
    where_present = (_interval(present), str(present["n"]))
    return (name, *everywhere, *where_both, *where_present)


def _notes(summary: dict) -> str:
    tolerance = summary["tolerance_mm"]
    lines = []
    if tolerance is not None:
        lines.append(f"surface Dice: share of the surfaces within {tolerance:g} mm")
    lines += [
        "HD95: median over all cases, infinite where just one mask is empty, 0 where both are",
        "HD95 both: mean over the cases with both masks; present: the reference has the structure",
    ]
    return "\n".join(lines)


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
    return f"class, {counted(block['n'], 'case')}{extra}\n" + _aligned(rows)


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
