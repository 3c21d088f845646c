"""genpipe: from raw data to a trained, honestly evaluated, versioned and promotable generative model."""

__version__ = "0.1.0"
