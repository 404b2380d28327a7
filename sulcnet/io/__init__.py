"""Files <-> arrays: the only place that knows NIfTI, MGH and ITK libraries.

    image = read_image("case_0000.nii.gz")                  # float32 (X, Y, Z) and its grid in RAS+ mm
    label = read_label("case.nii.gz")                       # integers
    write_mask("out/case.nii.gz", mask, like=image)         # the input's own shape, affine, codes and units

A new format is one file that exports READER.
"""

from sulcnet.io._image import Grid, Header, Image, farthest_corner_mm
from sulcnet.io.files import (
    endings,
    non_finite,
    read_image,
    read_label,
    write_map,
    write_mask,
)

__all__ = [
    "Grid",
    "Header",
    "Image",
    "endings",
    "farthest_corner_mm",
    "non_finite",
    "read_image",
    "read_label",
    "write_map",
    "write_mask",
]
