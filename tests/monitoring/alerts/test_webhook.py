"""Webhook: what a real server receives, and what is done when it does not."""

import hashlib
import hmac
import json
import time

import pytest
from pydantic import ValidationError

from cxr_mm.alerts.channels import post
from cxr_mm.alerts.settings import WebhookSettings
from cxr_mm.core.errors import CxrError, ParamsError

KEY = "a key of the receiver"


@pytest.fixture
def hook(receiver, monkeypatch):
    monkeypatch.setenv("HOOK_KEY", KEY)
    return WebhookSettings(url=f"{receiver.address}/hook", secret_variable="HOOK_KEY")


def test_a_server_that_fails_twice_gets_the_third_signed_and_fresh(receiver, hook, notice):
    receiver.answers += [503, 500]
    result = notice()
    post(result, hook, first_wait=0.01)
    assert len(receiver.got) == 3
    assert {body for _, _, body in receiver.got} == {receiver.got[0][2]}
    path, headers, body = receiver.got[-1]
    stamp = headers["X-CXR-MM-Timestamp"]
    signed = hmac.new(KEY.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["X-CXR-MM-Signature"] == f"sha256={signed}"
    assert abs(time.time() - int(stamp)) < 60
    assert path == "/hook"
    fields = json.loads(body)
    assert (fields["task"], fields["status"], fields["n"]) == ("icu", "alarm", 60)
    assert fields["notice_id"] == result.notice_id
    assert fields["reasons"][0]["name"] == "clinical.age"


def test_tries_wait_twice_as_long_each_time_and_end(receiver, hook, notice):
    receiver.answers += [503] * 9
    began = time.monotonic()
    with pytest.raises(CxrError, match="answered 503"):
        post(notice(), hook, first_wait=0.1)
    assert len(receiver.got) == hook.tries == 4
    assert 0.7 <= time.monotonic() - began < 5


def test_a_refusal_is_not_tried_again_and_a_redirect_not_followed(receiver, hook, notice):
    for code in (403, 302, 307):
        receiver.answers.append(code)
        with pytest.raises(CxrError, match=f"answered {code}"):
            post(notice(), hook, first_wait=0.01)
    assert [path for path, _, _ in receiver.got] == ["/hook"] * 3


def test_no_server_there_is_one_error(hook, notice):
    nowhere = hook.model_copy(update={"url": "http://127.0.0.1:9/"})
    with pytest.raises(CxrError, match="cannot be reached"):
        post(notice(), nowhere, first_wait=0.01)


def test_no_key_and_no_web_address_are_errors(hook, notice, monkeypatch):
    monkeypatch.delenv("HOOK_KEY")
    with pytest.raises(ParamsError, match="HOOK_KEY: is not set"):
        post(notice(), hook)
    for url in ("file:///etc/passwd", "ftp://host/", "http://", "https://me:word@host/"):
        with pytest.raises(ValidationError):
            WebhookSettings(url=url, secret_variable="HOOK_KEY")
