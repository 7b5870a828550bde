"""The work itself: prompts, previews, runs, corrections, applying, Undo, and what the strip says.

Everything here works without Qt and without a panel. A script, the demo and the panel drive the same
`controller.Controller`; timers and the translation of texts (`SAM2PropagateLib.texts`) are handed in.
"""
