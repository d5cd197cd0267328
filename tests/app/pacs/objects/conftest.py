"""Every source, each with one answer."""

import pytest

from tests.app.pacs.objects.samples import SOURCES, two_findings


@pytest.fixture(params=SOURCES, ids=str)
def source(request):
    return SOURCES[request.param]()


@pytest.fixture
def result():
    return two_findings()
