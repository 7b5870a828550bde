"""`python -m Testing.cohort.slow_cohort MODELS cohort ...`: the command, with sessions that leave notes."""

from __future__ import annotations

import sys
from pathlib import Path

from SAM2PropagateLib.cli.main import main
from Testing.cli.running import store_in
from Testing.cohort.cases import slow_session

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], make_session=slow_session, store=store_in(Path(sys.argv[1]))))
