"""Metrics, statistics and the tables of an evaluation (methods, section 9); numpy and scipy only, no torch.

masks    -> segmentation.score_masks  \\
                                        CaseResult -> tables.summarise -> tables.write_tables
classes  -> classification            /                (statistics)
"""
