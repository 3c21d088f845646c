"""What a run would do, before it does it: its time and size foretold, and each stage tried in miniature."""
