"""Phantom cohorts: folded hemispheres whose paracingulate sulcus is known in every voxel.

`cohort.py` is the door (`scans`, `draw_scan`, `dataset_json`). `hull.py` is the outside that all are bent from,
`space.py` the size, shape and pose of one, `folds.py` the sulci that are drawn as curves (`curves.py`) on its walls
(`walls.py`), `deep.py` what lies under the cortex, `anatomy.py` the signed distances to all of it, `noise.py` the
random fields of the rest. `scanners.py` turns distances into images. Nothing here but `dataset.py` writes a file.
"""
