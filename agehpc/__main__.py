"""`python -m agehpc`: the same as the `agehpc` script, for torchrun and Slurm."""

import sys

from agehpc.cli import main

if __name__ == "__main__":
    sys.exit(main())
