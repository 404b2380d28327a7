"""Files <-> arrays: the only place that knows NIfTI, MGH and ITK libraries.

    image = read_image("case_0000.nii.gz")                  # float32 (X, Y, Z) and its grid in RAS+ mm
    label = read_label("case.nii.gz")                       # integers
    write_mask("out/case.nii.gz", mask, like=image)         # the input's own shape, affine, codes and units

A new format is one file that exports READER.
"""

from sulcnet.io._image import Grid, Header, Image, farthest_corner_mm
from sulcnet.io.files import (
    ending_of,
    endings,
    files_of,
    mask_ending,
    non_finite,
    other_endings,
    read_image,
    read_label,
    write_map,
    write_mask,
)

__all__ = [
    "Grid",
    "Header",
    "Image",
    "ending_of",
    "endings",
    "farthest_corner_mm",
    "files_of",
    "mask_ending",
    "non_finite",
    "other_endings",
    "read_image",
    "read_label",
    "write_map",
    "write_mask",
]
