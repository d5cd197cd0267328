"""Store: which errors of an object store are told to the user, and which are the program's."""

from types import SimpleNamespace

import pytest

from cxr_mm.core.errors import StorageError
from cxr_mm.core.shards import store
from cxr_mm.core.shards.store import Store

OF_CLIENTS = ("botocore.exceptions", "aiohttp.client_exceptions", "azure.core.exceptions")


@pytest.fixture
def fails(monkeypatch):
    """Makes every question to an object store raise an error."""

    def prepared(error):
        def exists(path):
            raise error

        system = SimpleNamespace(exists=exists)
        monkeypatch.setattr(store, "system_of", lambda url: (system, "bucket/key"))

    return prepared


@pytest.mark.parametrize("module", OF_CLIENTS)
def test_an_error_of_a_client_is_a_fault_of_the_store(fails, module):
    base = type("BaseError", (Exception,), {"__module__": module})
    fails(type("RefusedError", (base,), {"__module__": "elsewhere"})())
    with pytest.raises(StorageError, match="cannot be reached"):
        Store.at("s3://bucket").exists("key")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("403"), "no permission"),
        (FileNotFoundError("404"), "no such bucket"),
        (ImportError("s3fs"), "nothing is installed"),
        (ValueError("no account"), "cannot be reached"),
    ],
)
def test_an_error_of_a_file_system_is_a_fault_of_the_store(fails, error, message):
    fails(error)
    with pytest.raises(StorageError, match=message):
        Store.at("s3://bucket").exists("key")


@pytest.mark.parametrize("error", [TypeError("no such argument"), KeyError("name")])
def test_an_error_of_the_program_is_raised_as_it_is(fails, error):
    fails(error)
    with pytest.raises(type(error)):
        Store.at("s3://bucket").exists("key")
