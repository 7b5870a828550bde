"""How SAM 2 learns to carry a mask through a volume: cases, looks, clips, rollout, losses, the loop."""
