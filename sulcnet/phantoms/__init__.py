"""Phantom cohorts: folded left hemispheres whose second cingulate sulcus is known in every voxel.

`cohort.py` is the door (`draw_phantom`, `draw_cohort`, `dataset_json`); `folds.py` draws the sulci as curves on the
two walls, `hemisphere.py` turns them into distances in millimetres, `scanners.py` turns distances into images.
Nothing here writes a file.
"""
