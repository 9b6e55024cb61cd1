import sys
from pathlib import Path

# The scripts find each other beside themselves, as they do when run.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
