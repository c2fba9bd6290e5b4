"""`python -m vla` is the command `vla`."""

import sys

from vla.cli import main

sys.exit(main())
