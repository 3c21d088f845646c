"""`python -m genpipe` is the command `genpipe`."""

import sys

from genpipe.cli import main

sys.exit(main())
