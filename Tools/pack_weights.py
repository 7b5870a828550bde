"""Make the bundled weights file: merge float weights files, pack them, load the result strictly.

    python Tools/pack_weights.py IMAGE_HALF MEMORY_HALF --out OUT.safetensors --name NAME --version 1 ...

A tensor of a later file replaces the one of an earlier file. The configuration, and how frames are looked at
("view"), are read from the metadata of the last file that has them. The same input gives the same bytes (with
--calibrate: on the same computer with the same version of torch).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "SAM2Propagate"))

import torch
from calibration import output_error, pack_for_outputs, second_moments
from safetensors.torch import load_file

from SAM2PropagateLib.engine.build import build_model, load_model, model_config
from SAM2PropagateLib.engine.crops import STYLE_KEY
from SAM2PropagateLib.engine.weights import SCALE_SUFFIX, State, pack, read_state, stays_float, write_packed
from SAM2PropagateLib.training.parts import IMAGE, PROMPTS, part_of

LARGEST_FILE = 40_000_000
# Rounding to integers changes a tensor by less than this, rounding to float16 by less than that.
LARGEST_DIFFERENCE = 0.03
LARGEST_FLOAT_DIFFERENCE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", type=Path, help="float weights files, later ones replace")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True, help="the model's name, as in the registry")
    parser.add_argument("--version", required=True)
    parser.add_argument("--license", required=True, help="SPDX identifier")
    parser.add_argument("--origin", required=True, help="one sentence: whose weights, trained on what")
    parser.add_argument(
        "--keep-float",
        nargs="*",
        default=[],
        metavar="PREFIX",
        help='tensors whose names start so stay float16 as well; "" keeps all, to compare with',
    )
    parser.add_argument(
        "--image-half-of",
        type=Path,
        metavar="PACKED",
        help="a packed file with the same image half: its integers are kept, so that the next version "
        "differs only in what has learned",
    )
    parser.add_argument("--calibrate", type=Path, metavar="FOLDER", help="volumes, see calibration.py")
    parser.add_argument("--calibrate-every", type=int, default=2, metavar="N", help="use each Nth volume")
    options = parser.parse_args()

    state: State = {}
    config, view = "", ""
    for path in options.inputs:
        part, metadata = read_state(path)
        state.update(part)
        config = metadata.get("config", config)
        view = metadata.get(STYLE_KEY, view)
    if not config:
        sys.exit("None of the inputs says in its metadata which configuration it belongs to.")
    metadata = {
        "config": json.dumps(json.loads(config), sort_keys=True),
        "name": options.name,
        "version": options.version,
        "licence": options.license,  # codespell:ignore
        "origin": options.origin,
        **({STYLE_KEY: view} if view else {}),
    }
    prefixes = tuple(options.keep_float)

    def keep_float(name: str, tensor: torch.Tensor) -> bool:
        return stays_float(name, tensor) or name.startswith(prefixes)

    packed: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    if options.calibrate:
        torch.set_num_threads(1)
        model = build_model(model_config(config), draw_weights=False)
        model.load_state_dict(state)
        moments = second_moments(model, options.calibrate, options.calibrate_every)
        print(f"{'rounded':>10} {'calibrated':>10}  change of the outputs of")
        for name, moment in moments.items():
            if keep_float(name, state[name]):
                continue
            packed[name] = pack_for_outputs(state[name], moment)
            rounded, calibrated = (values * scale for values, scale in (pack(state[name]), packed[name]))
            changes = (output_error(state[name], w, moment) for w in (rounded, calibrated))
            print(*(f"{change:10.5f}" for change in changes), name, flush=True)
    if options.image_half_of:
        packed.update(_image_half(options.image_half_of, state))
    write_packed(state, metadata, options.out, keep_float=keep_float, packed=packed)

    loaded = load_model(options.out, device="cpu")
    kept = loaded.model.state_dict()
    print(f"{'relative error':>16}  tensor (the ten that lose most)")
    errors = {name: _relative_error(state[name], kept[name]) for name in kept}
    for name in sorted(errors, key=lambda n: -errors[n])[:10]:
        print(f"{errors[name]:16.5f}  {name} {list(kept[name].shape)}")
    content = options.out.read_bytes()
    print(f"{options.out}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    if len(content) > LARGEST_FILE:
        sys.exit(f"The file is larger than {LARGEST_FILE} bytes.")


def _image_half(path: Path, state: State) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the integers and scales of the parts that training leaves alone; they must be those of `state`,
    and what is kept as floats there as well."""
    stored = load_file(str(path))
    kept = {}
    for name in state:
        if part_of(name) not in (IMAGE, PROMPTS):
            continue
        if name not in stored or stored[name].shape != state[name].shape:
            sys.exit(f"{name} is not the same in {path.name}: that is another model.")
        scale = stored.get(name + SCALE_SUFFIX)
        found = stored[name].float() if scale is None else stored[name] * scale
        most = LARGEST_FLOAT_DIFFERENCE if scale is None else LARGEST_DIFFERENCE
        if _relative_error(state[name], found) > most:
            sys.exit(f"{name} is another one in {path.name}: the image half has changed.")
        if scale is not None:
            kept[name] = stored[name], scale
    return kept


def _relative_error(exact: torch.Tensor, packed: torch.Tensor) -> float:
    size = float(exact.norm())
    return float((packed - exact).norm()) / size if size else float(packed.norm())


if __name__ == "__main__":
    main()
