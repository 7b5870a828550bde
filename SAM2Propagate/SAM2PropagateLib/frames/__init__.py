"""The volume as frames: geometry, window, the part of a frame that the model sees."""
