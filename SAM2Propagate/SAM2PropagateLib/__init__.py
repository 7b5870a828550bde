"""The library behind the SAM2Propagate module: prompts, frames, engine, worker, models, scene, files."""

__version__ = "0.1.0"
