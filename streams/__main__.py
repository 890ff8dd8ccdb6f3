"""The command `syncline`, also as `python -m streams`. Imports as little as it can: `--help` must be quick."""

from __future__ import annotations

import sys


def main() -> None:
    """Run one command and exit: 0 done, 1 a problem, 2 wrong usage, 130 Ctrl-C."""
    try:
        from streams.cli import app  # noqa: PLC0415 - so that Ctrl-C while importing is quiet, too

        code = app.run()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
