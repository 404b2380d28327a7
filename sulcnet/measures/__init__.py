"""Numbers that a person would measure on a mask: one file per measure, in millimetres of the image's own grid."""
