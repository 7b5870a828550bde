"""What the window decides and shows: tools, previews, runs, corrections, the slice strip, installation.

Everything here works without Qt, from a script and in tests. The module's window wires these classes to its
widgets, hands in the timers and the translation of texts (`SAM2PropagateLib.texts`), and decides nothing.
"""
