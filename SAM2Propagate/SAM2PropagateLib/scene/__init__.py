"""MRML: volumes to frames, markups to prompts, masks to segmentations."""
