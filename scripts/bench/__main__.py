"""`python -m scripts.bench PART`."""

import sys

from scripts.bench.machine import main
from vla.cli import guarded, prepare_environment

if __name__ == "__main__":
    prepare_environment()
    sys.exit(guarded(lambda: main(sys.argv[1:])))
