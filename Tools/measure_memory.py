"""Measure what loading each model and segmenting frames takes: the registry's `memory_mb`. Linux only.

    python Tools/measure_memory.py [NAME ...] [--input-size SIZE]

Each model runs in a process of its own, on the CPU in float32 with one thread: it is loaded, one frame is
encoded and segmented from a click, and a second one from the memory of the first. Official models get random
weights, which need as much. Counted is the most main memory that was the process's own (not files it has
mapped, which the system can drop), torch itself included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "SAM2Propagate")]

from SAM2PropagateLib.models.registry import ModelEntry, find_model, model_names  # noqa: E402
from SAM2PropagateLib.models.store import ModelStore  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=model_names())
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        _write_checkpoint(find_model(options.names[0]), options.write)
    elif options.run:
        print(_peak_of_a_run(options.names[0], options.run, options.input_size))
    else:
        for name in options.names:
            size = options.input_size or find_model(name).input_size
            print(f"{name:24} {size:5} px {_measure(name, size):6} MB", flush=True)


def _write_checkpoint(entry: ModelEntry, folder: Path) -> None:
    """Write a checkpoint of an official model with random weights, under its file name."""
    import torch

    from SAM2PropagateLib.engine.build import build_model, model_config

    assert entry.config is not None
    model = build_model(model_config(entry.config, 128))
    torch.save({"model": model.state_dict()}, folder / entry.file_name)


def _measure(name: str, size: int) -> int:
    entry = find_model(name)
    this = [sys.executable, __file__, name]
    with tempfile.TemporaryDirectory() as folder:
        if entry.resource is None:
            subprocess.run([*this, "--write", folder], check=True)
            path = Path(folder) / entry.file_name
        else:
            path = ModelStore(Path(folder)).path_of(entry)
        run = [*this, "--run", str(path), "--input-size", str(size)]
        return int(subprocess.run(run, check=True, capture_output=True, encoding="utf-8").stdout)


def _peak_of_a_run(name: str, path: Path, size: int) -> int:
    peak = 0
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.01):
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("RssAnon:"):
                    peak = max(peak, int(line.split()[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _segment_two_frames(name, path, size)
    finally:
        stop.set()
        watcher.join()
    return peak // 1024


def _segment_two_frames(name: str, path: Path, size: int) -> None:
    import torch

    from SAM2PropagateLib.engine.build import load_model

    torch.set_num_threads(1)
    loaded = load_model(
        path, config=find_model(name).config, device="cpu", input_size=size, precision="float32"
    )
    model: Any = loaded.model
    outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    click = {
        "point_coords": torch.full((1, 1, 2), size / 2),
        "point_labels": torch.ones(1, 1, dtype=torch.int32),
    }
    with torch.inference_mode():
        for frame in range(2):
            encoded = model.forward_image(torch.rand(1, 3, size, size))
            _, features, positions, sizes = model._prepare_backbone_features(encoded)
            first = frame == 0
            answer = model.track_step(
                frame, first, features, positions, sizes, click if first else None, None, outputs, 2
            )
            outputs["cond_frame_outputs" if first else "non_cond_frame_outputs"][frame] = answer


if __name__ == "__main__":
    main()
