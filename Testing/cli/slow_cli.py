"""The command line with a fake session that takes its time: `python -m Testing.cli.slow_cli MODELS ...`."""

from __future__ import annotations

import sys
from pathlib import Path

from SAM2PropagateLib.cli.main import main
from Testing.cli.fake_session import FakeJobSession
from Testing.cli.running import store_in

if __name__ == "__main__":
    sys.exit(
        main(
            sys.argv[2:],
            session_factory=lambda: FakeJobSession(seconds_per_frame=0.3),
            store=store_in(Path(sys.argv[1])),
        )
    )
