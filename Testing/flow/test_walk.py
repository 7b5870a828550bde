"""The worker killed at random moments of every step of the work, many times: nothing is lost or left over."""

from __future__ import annotations

import os

import pytest

from Testing.flow.walk import AFTER, BEFORE, DURING, NEVER, STEPS, CtWalk, Walk

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills with a signal")

QUICK = {"load": 0.02, "open": 0.01, "preview": 0.03, "frame": 0.01}
# With the real model: every step, and the moments at which the worker is killed.
CT_STORY = (
    ("click", DURING),
    ("click", NEVER),
    ("negative", NEVER),
    ("cancel", NEVER),
    ("cancel", DURING),
    ("propagate", NEVER),
    ("apply", AFTER),
    ("undo", NEVER),
    ("redo", NEVER),
    ("paint", NEVER),
    ("begin", AFTER),
    ("erase", NEVER),
    ("propagate", NEVER),
    ("apply", NEVER),
    ("correct", AFTER),
    ("propagate", NEVER),
    ("save", NEVER),
    ("apply", NEVER),
    ("box", NEVER),
    ("undo", BEFORE),
    ("redo", NEVER),
    ("scribble", NEVER),
    ("lasso", NEVER),
    ("lock", NEVER),
    ("load", NEVER),
    ("lock", NEVER),
    ("unlock", NEVER),
    ("range", NEVER),
    ("absent", NEVER),
    ("leave", NEVER),
    ("discard", NEVER),
    ("reopen", NEVER),
)


@pytest.mark.parametrize(("seed", "automatic"), [(0, False), (1, True), (2, False)])
def test_a_walk_through_every_step_with_the_worker_killed(headless, tmp_path, seed, automatic):
    """A real worker whose engine draws what the prompts say, so that every mask is known beforehand."""
    walk = Walk(headless, tmp_path, seed, QUICK, automatic)
    try:
        walk.story(0.6)
        walk.stroll(16, 0.7)
        walk.complete()
        walk.end()
    finally:
        walk.controller.close()
    assert sum(walk.kills.values()) >= 15, walk.kills


def test_every_step_with_the_bundled_model_and_the_worker_killed_in_some(headless, tmp_path):
    walk = CtWalk(headless, tmp_path, 4)
    try:
        walk.choose("A")
        for step, moment in CT_STORY:
            walk.take(step, moment)
        walk.end()
    finally:
        walk.controller.close()
    assert set(STEPS) <= {step for step, count in walk.done.items() if count}, walk.done
    assert sum(walk.kills.values()) >= 4, walk.kills
