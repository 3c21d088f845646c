"""genpipe: from raw data to a trained, honestly evaluated, versioned and promotable generative model."""

from pathlib import Path

__version__ = "0.1.0"
PACKAGE = Path(__file__).resolve().parent
