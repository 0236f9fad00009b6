"""`python -m tests.cases` prints the table: input, what is right, what dreamtune does. Exit code 1: a row is wrong."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bounded import Bounded
from tests.cases.case import look
from tests.cases.files import CASES as FILES
from tests.cases.hostile import CASES as HOSTILE
from tests.cases.pictures import CASES as PICTURES

CASES = [*FILES, *PICTURES, *HOSTILE]


def main() -> int:
    """Print a row for each case."""
    wrong = 0
    print("| input | expected | got | ok |\n|---|---|---|---|")
    with Bounded() as bounded, tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            row = look(case, Path(folder) / str(number), bounded)
            wrong += not row.ok
            cells = (case.name, case.expected, row.got.replace("|", "\\|")[:200], "yes" if row.ok else "NO")
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\n{len(CASES) - wrong} of {len(CASES)} are right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
