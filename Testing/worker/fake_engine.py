"""An engine without a model, that does and suffers what its script says.

Its masks depend on the voxels, the window, the segment and the prompts, so that wrong data shows. The script
is a JSON object:

    steps       seconds per step: {"load", "open", "preview", "frame", "ahead"}
    trouble     what happens where: {"load" | "open" | "preview" | "propagate" | "ahead": [kind, after]}; in a
                run, `after` is the number of frames that come first
    hold        {"after": N, "until": PATH}: the first run of the process waits after N frames, served and
                cancellable as between any two frames, until the file PATH exists; without one, for good
    children    "group" and/or "session": sleeping processes to start with the model
    chatter     True: print at every step, from Python, from C and from a child process

Kinds of trouble: kill, segfault, exit, hang, deaf (goes on but ignores cancel), garbage, half_frame, memory,
cuda_memory, cuda, torch_memory, value, input, other_size (of the masks from then on).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.packed_masks import EDGE_STEPS
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.run_options import RunRequest
from SAM2PropagateLib.worker.engine_port import Crop, Mask, ReportProgress, ServedSession
from SAM2PropagateLib.worker.messages import LoadModel
from SAM2PropagateLib.worker.wire import MAGIC, PREFIX

FOREVER = 600.0


def fake_mask(frame: NDArray[np.uint8], segment: str, fingerprint: str = "") -> NDArray[np.bool_]:
    """The mask that the fake engine gives for an 8-bit frame; (rows, cols) bool."""
    digest = hashlib.sha256(f"{segment}/{fingerprint}".encode()).digest()
    return frame > 40 + digest[0] // 2


@dataclass(frozen=True)
class FakeMask:
    """A frame's mask with made-up scores."""

    segment: str
    frame: int
    mask: NDArray[np.bool_]
    predicted_iou: float
    object_score: float
    doubt: float
    kind: str
    note: str = ""
    withheld: Callable[[], NDArray[np.bool_]] | None = None

    def edge(self) -> NDArray[np.int8]:
        """Every pixel is half a pixel from the edge."""
        return np.where(self.mask, np.int8(EDGE_STEPS // 2), np.int8(-EDGE_STEPS // 2))


def wait_for_file(path: str | None, meanwhile: Callable[[], None]) -> None:
    """Call `meanwhile` again and again until a file exists; None: until it raises."""
    while path is None or not Path(path).exists():
        meanwhile()
        time.sleep(0.005)


class FakeEngine:
    """See the module. `outbound` is the protocol's stream, for the troubles that write nonsense into it."""

    def __init__(self, script: Mapping[str, Any], outbound: Any = None) -> None:
        self.script = script
        self.outbound = outbound
        self.released = 0
        self._hold = dict(script.get("hold", {}))

    def pause(self, step: str) -> None:
        time.sleep(float(self.script.get("steps", {}).get(step, 0.0)))
        if self.script.get("chatter"):
            _chatter(step)

    def hold(self, done: int, between: Callable[[float], None]) -> None:
        """Wait where the script says so, so that a test acts amid the run, however busy the machine is."""
        if not self._hold or done < self._hold["after"]:
            return
        until, self._hold = self._hold.get("until"), {}
        wait_for_file(until, lambda: between(done))

    def trouble(self, where: str, after: int = 0) -> str:
        """Suffer the scripted trouble if its time has come; returns its kind, or ''."""
        kind, when = self.script.get("trouble", {}).get(where, ["", 0])
        if not kind or after < when:
            return ""
        if after == when or kind == "deaf":
            self._suffer(kind)
        return str(kind)

    def _suffer(self, kind: str) -> None:
        if kind == "kill":
            signal.raise_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        elif kind == "segfault":
            ctypes.string_at(0)
        elif kind == "exit":
            os._exit(3)
        elif kind == "hang":
            time.sleep(FOREVER)
        elif kind == "garbage":
            self.outbound.write(b"Epoch 1/10 loss=0.123 and so on, this is not a frame\n" * 3)
            self.outbound.flush()
            time.sleep(FOREVER)
        elif kind == "half_frame":
            self.outbound.write(PREFIX.pack(MAGIC, 5000, 1 << 20) + b'{"type": "frame", "requ')
            self.outbound.flush()
            os._exit(0)
        elif kind == "memory":
            raise MemoryError("cannot allocate 10 GiB")
        elif kind == "cuda_memory":
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        elif kind == "torch_memory":
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        elif kind == "cuda":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        elif kind == "value":
            raise ValueError("secret detail of the code")
        elif kind == "input":
            raise InputError("bad_input_size", "The input size 7 cannot be used.", "Choose 256 or 512.")

    def load_model(self, request: LoadModel, progress: ReportProgress) -> Mapping[str, Any]:
        progress("Loading", 0, 2)
        self.pause("load")
        self.trouble("load")
        for kind in self.script.get("children", []):
            _start_child(in_own_session=kind == "session")
        progress("Loading", 1, 2)
        return {"model": request.name, "device": "cpu", "dtype": "float32", "input_size": 256}

    def open(self, frames: FrameStack, crop: Crop) -> ServedSession:
        self.pause("open")
        self.trouble("open")
        return FakeEngineSession(self, frames, crop)

    def release_memory(self) -> None:
        self.released += 1
        print(f"released memory {self.released}", file=sys.stderr)


class FakeEngineSession:
    """One volume along one axis."""

    def __init__(self, engine: FakeEngine, frames: FrameStack, crop: Crop) -> None:
        self._engine = engine
        self._frames = frames
        self.crop = crop
        self._written: dict[tuple[str, int], str] = {}
        self.encoded: set[int] = set()

    def preview(self, frame: int, prompts: FramePrompts, segment: str) -> Mask:
        self._engine.pause("preview")
        self._engine.trouble("preview")
        mask = fake_mask(self._frames.frame(frame), segment, prompts.fingerprint)
        return FakeMask(segment, frame, mask, 0.9, float("nan"), float(len(self.encoded)), "preview")

    def expected_frames(self, run: RunRequest) -> int:
        return len(self._todo(run))

    def propagate(
        self, run: RunRequest, on_frame: Callable[[Mask], None], between: Callable[[float], None]
    ) -> Mapping[str, Any]:
        todo = self._todo(run)
        for done, (segment, frame, mark) in enumerate(todo):
            trouble = self._engine.trouble("propagate", done)
            if trouble != "deaf":
                between(done)
            self._engine.hold(done, between)
            self._engine.pause("frame")
            mask = fake_mask(self._frames.frame(frame), segment, mark)
            if trouble == "other_size":
                mask = np.zeros((9000, 9000), bool)
            withheld = self._engine.script.get("withheld", {}).get(str(frame))
            one = FakeMask(segment, frame, mask, 0.8, 3.0, 0.25, "propagated")
            if withheld is not None:
                drawn = partial(np.logical_and, mask, withheld)
                one = replace(one, mask=np.zeros_like(mask), object_score=-3.0, withheld=drawn)
            on_frame(one)
            self._written[segment, frame] = mark
        between(len(todo))
        return {"frames_computed": len(todo)}

    def _todo(self, run: RunRequest) -> list[tuple[str, int, str]]:
        todo = []
        for segment in run.segments:
            keys = sorted(segment.keyframes)
            mark = "".join(segment.keyframes[key].fingerprint for key in keys)
            frames = sorted(
                set(range(segment.first, segment.last + 1)) - segment.locked,
                key=lambda frame: min(abs(frame - key) for key in keys),
            )
            for frame in frames:
                near = min(abs(frame - key) for key in keys)
                if run.options.reach is not None and near > run.options.reach:
                    continue
                if run.options.writes_all or self._written.get((segment.segment, frame)) != mark:
                    todo.append((segment.segment, frame, mark))
        return todo

    def set_frames(self, frames: FrameStack) -> None:
        self._frames = frames
        self._written.clear()

    def encode_ahead(self, order: Iterable[int], should_stop: Callable[[], bool]) -> int:
        before = len(self.encoded)
        self._engine.trouble("ahead")
        for frame in (one for one in order if one not in self.encoded):
            if should_stop():
                break
            self._engine.pause("ahead")
            self.encoded.add(frame)
        return len(self.encoded) - before


class OutOfMemoryError(RuntimeError):
    """Called as torch calls its own."""


def _start_child(in_own_session: bool) -> None:
    process = subprocess.Popen(["sleep", str(FOREVER)], start_new_session=in_own_session)
    print(f"child {process.pid}", file=sys.stderr, flush=True)
    # Never waited for, as with the helpers that libraries start.
    process.returncode = 0


def _chatter(step: str) -> None:
    print(f"Python prints at {step}", flush=True)
    sys.stdout.write("no end of line")
    os.write(1, b"the descriptor is written to\n")
    libc = ctypes.CDLL(None)
    libc.puts(f"C prints at {step}".encode())
    libc.fflush(None)
    subprocess.run([sys.executable, "-S", "-c", "print('a child prints')"], check=True)
