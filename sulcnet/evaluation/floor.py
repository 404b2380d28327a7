"""Whether the scores of a summary mean anything, or are those of guessing."""

from __future__ import annotations

from sulcnet.evaluation.summary import WHERE_PRESENT


def shortcomings(summary: dict, structure: str, least_dice: float) -> list[str]:
    """Say in plain words why a summary means nothing; empty where it means something.

    The floor: a class whose balanced accuracy is above chance with its whole interval, and a structure whose mean Dice
    where there is one is at least `least_dice`. What is undefined is under it.

    Args:
        summary: with classes, and with this structure.
    """
    said = []
    scored = summary["classification"]
    score, chance = scored["balanced_accuracy"], 1 / len(scored["classes"])
    if (score["low"] or 0.0) <= chance:
        accuracy = f"{_number(score['estimate'])}, from {_number(score['low'])} on"
        said.append(
            f"the class is not told from guessing (balanced accuracy {accuracy}; guessing has {chance:.3f})"
        )
    dice = summary["structures"][structure]["dice" + WHERE_PRESENT]["mean"]
    if (dice or 0.0) < least_dice:
        said.append(
            f"{structure} is not found (Dice {_number(dice)} where there is one; the floor is {least_dice})"
        )
    return said


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
