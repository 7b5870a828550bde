"""The session that answers by itself, which the tests inside Slicer use as well."""

from SAM2PropagateTesting.answers import RADIUS, CountingTicker, FakeSession, disc, maskOf

__all__ = ["RADIUS", "CountingTicker", "FakeSession", "disc", "maskOf"]
