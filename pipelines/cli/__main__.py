"""`python -m dreamtune.pipelines.cli` is the command `dreamtune`."""

import sys

from dreamtune.pipelines.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
