"""The command line with `outline_the_bright` in the place of a model's image half and with `ShortClips`:
a process to be killed.

`python -m Testing.training.outlining_cli CACHE finetune ...`
"""

from __future__ import annotations

import sys
from pathlib import Path

from SAM2PropagateLib.cli.main import main
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.training import image_half, recipe
from Testing.training.samples import ShortClips, outline_the_bright

if __name__ == "__main__":
    image_half.proposer = lambda steps: outline_the_bright
    recipe.Recipe = ShortClips  # type: ignore[misc]
    sys.exit(main(sys.argv[2:], store=ModelStore(cache=Path(sys.argv[1]))))
