"""Undoable steps between an image's own grid and a plan's grid; one step per file, records in `records/trace.py`."""

from sulcnet.geometry.canonical import (
    plan_trace,
    target_shape,
    to_input_grid,
    to_plan,
)

__all__ = ["plan_trace", "target_shape", "to_input_grid", "to_plan"]
