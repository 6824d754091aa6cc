"""Where this clone lies."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# on the path of a process that a test starts, so that it can import samples
TESTS = REPOSITORY / "tests"
