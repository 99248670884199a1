"""The one error that this package raises for bad input."""


class AnalysisError(ValueError):
    """A file or directory that cannot be read as what it should be: says which, why, and what to do."""
