"""The session that answers by itself, which the tests inside Slicer use as well."""

from SAM2PropagateTesting.answers import RADIUS, AnsweringSession, CountingTicker, disc, maskOf

__all__ = ["RADIUS", "AnsweringSession", "CountingTicker", "disc", "maskOf"]
