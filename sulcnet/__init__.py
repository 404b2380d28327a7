"""Find small, variable cortical folds in brain MRI: segment them and classify the whole image in one pass."""

from sulcnet.records.workspace import settle_user

__version__ = "0.1.0"

settle_user()  # before MONAI is imported, by whatever way: for a user without a name it could not be
