import pytest

from Headless.fixtures import data_tree, headless, openView  # noqa: F401
from Testing.app.cases import HeadlessCase


@pytest.fixture
def case(headless):  # noqa: F811
    """A volume, a segmentation and a controller; what a run finds is applied automatically."""
    one = HeadlessCase(headless)
    yield one
    one.controller.close()
