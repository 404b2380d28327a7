"""Losses: pure functions that give a numerator and a denominator.

So batches and processes add up before dividing.
"""

from sulcnet.losses._ratio import Ratio

__all__ = ["Ratio"]
