"""Find small, variable cortical folds in brain MRI: segment them and classify the whole image in one pass."""

__version__ = "0.1.0"
