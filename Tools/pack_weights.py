"""Make the bundled weights file: merge float weights files in order, pack them, check that nothing is
missing.

    python Tools/pack_weights.py IMAGE_HALF MEMORY_HALF --out OUT.safetensors --name NAME --title TITLE ...

A tensor of a later file replaces the one of an earlier file. The configuration is read from the metadata of
the last file that has one. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "SAM2Propagate"))

import torch
from SAM2PropagateLib.engine.build import load_model
from SAM2PropagateLib.engine.weights import State, read_state, write_packed

LARGEST_FILE = 40_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", type=Path, help="float weights files, later ones replace")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True, help="the model's name, as in the registry")
    parser.add_argument("--version", required=True)
    parser.add_argument("--licence", required=True, help="SPDX identifier")
    parser.add_argument("--origin", required=True, help="one sentence: whose weights, trained on what")
    parser.add_argument("--float", action="store_true", help="float16 without int8, to compare with")
    options = parser.parse_args()

    state: State = {}
    config = ""
    for path in options.inputs:
        part, metadata = read_state(path)
        state.update(part)
        config = metadata.get("config", config)
    if not config:
        sys.exit("None of the inputs says in its metadata which configuration it belongs to.")
    metadata = {
        "config": json.dumps(json.loads(config), sort_keys=True),
        "name": options.name,
        "version": options.version,
        "licence": options.licence,
        "origin": options.origin,
    }
    keep = (lambda name, tensor: True) if options.float else None
    if keep is None:
        write_packed(state, metadata, options.out)
    else:
        write_packed(state, metadata, options.out, keep_float=keep)

    loaded = load_model(options.out, device="cpu")
    packed = loaded.model.state_dict()
    print(f"{'relative error':>16}  tensor (the ten that lose most)")
    errors = {name: _relative_error(state[name], packed[name]) for name in packed}
    for name in sorted(errors, key=lambda n: -errors[n])[:10]:
        print(f"{errors[name]:16.5f}  {name} {list(packed[name].shape)}")
    content = options.out.read_bytes()
    print(f"{options.out}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    if len(content) > LARGEST_FILE and not options.float:
        sys.exit(f"The file is larger than {LARGEST_FILE} bytes.")


def _relative_error(exact: torch.Tensor, packed: torch.Tensor) -> float:
    size = float(exact.norm())
    return float((packed - exact).norm()) / size if size else float(packed.norm())


if __name__ == "__main__":
    main()
