"""The list of models, and downloads that go on beside the panel."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from Headless.fake_session import CountingTicker
from SAM2PropagateLib.errors import Cancelled, SAM2PropagateError
from SAM2PropagateLib.gui.model_list import ModelList
from SAM2PropagateLib.models.registry import MODELS
from SAM2PropagateLib.models.store import ModelStore


@pytest.fixture
def store(tmp_path):
    (tmp_path / "resources").mkdir()
    return ModelStore(tmp_path / "cache", tmp_path / "resources", MODELS[:3])


def listing(store, fetch):
    ticker = CountingTicker()
    models = ModelList(store, ticker, fetch)
    ends, progress = [], []
    models.finished.connect(ends.append)
    models.progress.connect(progress.append)
    return models, ticker, ends, progress


def polled(models, ends, count=1):
    end = time.monotonic() + 60
    while len(ends) < count and time.monotonic() < end:
        models.poll()
        time.sleep(0.002)


def test_rows_say_what_each_model_is(store):
    models = ModelList(store)
    bundled, tiny, small = models.rows()
    assert not bundled.isThere and "Reinstall the extension." in bundled.whyNotDownload
    assert "149 MB" in tiny.details and "Apache-2.0" in tiny.details and "memory" in tiny.details
    assert tiny.whyNotDownload == "" and "not on this computer" in tiny.whyNotRemove
    assert "size not published" in small.details
    text = models.consentText(tiny.name)
    for words in ("https://", "149 MB", "Apache-2.0", "SHA-256", str(store.cache)):
        assert words in text


def test_a_download_reports_from_the_main_thread_and_ends_its_ticker(store):
    threads = []

    def fetch(entry, store, *, progress, cancelled):
        progress(50, 100)
        progress(100, 100)
        path = store.path_of(entry)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")

    models, ticker, ends, progress = listing(store, fetch)
    models.progress.connect(lambda _: threads.append(threading.current_thread()))
    name = MODELS[1].name
    assert models.download(name)
    assert ticker.isOn and not models.download(MODELS[2].name)
    polled(models, ends)
    assert ends[0].state == "done" and not ticker.isOn and not models.isDownloading
    assert [one.done for one in progress] == [50, 100]
    assert set(threads) == {threading.main_thread()}
    assert models.rows()[1].isThere
    models.remove(name)
    assert not models.rows()[1].isThere


def test_a_download_can_be_cancelled(store):
    def fetch(entry, store, *, progress, cancelled):
        while not cancelled():
            time.sleep(0.002)
        raise Cancelled()

    models, _, ends, _ = listing(store, fetch)
    models.download(MODELS[1].name)
    assert models.rows()[2].whyNotDownload == "Another download is running."
    models.cancel()
    polled(models, ends)
    assert ends[0].state == "cancelled"


@pytest.mark.parametrize(
    "error", [SAM2PropagateError("download_failed", "No connection."), RuntimeError("odd")]
)
def test_a_failed_download_says_why(store, error):
    def fetch(*_, **__):
        raise error

    models, _, ends, _ = listing(store, fetch)
    models.download(MODELS[1].name)
    polled(models, ends)
    assert ends[0].state == "failed" and str(error) in ends[0].text


def test_closing_ends_the_thread(store):
    def fetch(entry, store, *, progress, cancelled):
        while not cancelled():
            time.sleep(0.002)
        raise Cancelled()

    models, ticker, _, _ = listing(store, fetch)
    models.download(MODELS[1].name)
    models.close()
    assert not ticker.isOn
    assert not [one for one in threading.enumerate() if one.name == "sam2propagate-download"]


def test_a_model_that_needs_more_main_memory_than_is_free_says_so(store):
    huge = ModelStore(store.cache, store.resources, (replace(MODELS[1], memory_mb=10**9),))
    (row,) = ModelList(huge).rows()
    assert "more than is free now" in row.details
