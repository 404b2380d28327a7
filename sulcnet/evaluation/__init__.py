"""Metrics, statistics and the tables of an evaluation (methods, section 9); numpy and scipy only, no torch.

masks    -> segmentation.score_masks  \\
                                        CaseResult -> tables.summarise -> tables.write_tables
classes  -> classification            /                (statistics)
"""

# of presence: whether a mask that has any voxel is where the reference has one, and none where it has none
FOUND, CLEAR = "presence_sensitivity", "presence_specificity"
EXTRA_METRICS = ("cldice",)  # scored only where they are asked for
