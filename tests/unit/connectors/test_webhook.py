"""Webhook signatures: published vectors, and everything that must be refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from connectors import webhook
from schemas.problems import Problem

# The example of the Standard Webhooks specification and its reference libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STAMP = "1614265330"
NOW = datetime.fromtimestamp(1614265330, UTC)
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
HEADERS = [("Webhook-Id", ID), ("Webhook-Timestamp", STAMP), ("Webhook-Signature", SIGNATURE)]


def changed(**values: str | None) -> list[tuple[str, str]]:
    """The headers of the example with some replaced, or left out."""
    replaced = {name: values.get(name.removeprefix("Webhook-").lower(), value) for name, value in HEADERS}
    return [(name, value) for name, value in replaced.items() if value is not None]


def verify(
    headers: list[tuple[str, str]], body: bytes = BODY, now: datetime = NOW, secrets: tuple[str, ...] = (SECRET,)
) -> str | None:
    return webhook.verify(webhook.STANDARD, headers, body, secrets, now)


def test_the_specification_s_example_verifies() -> None:
    assert verify(HEADERS) == ID
    assert webhook.sign(webhook.STANDARD, BODY, SECRET, ID, NOW) == {name.lower(): value for name, value in HEADERS}


@pytest.mark.parametrize("signature", [f"v1,AAAA {SIGNATURE}", f"{SIGNATURE} v1a,xyz", f"v2,x {SIGNATURE} v1,BBBB"])
def test_one_good_signature_of_several_is_enough(signature: str) -> None:
    assert verify(changed(signature=signature)) == ID


@pytest.mark.parametrize("secrets", [(SECRET, OTHER), (OTHER, SECRET)])
def test_all_live_secrets_count(secrets: tuple[str, ...]) -> None:
    assert verify(HEADERS, secrets=secrets) == ID


@pytest.mark.parametrize("seconds", [-300, -1, 0, 299, 300])
def test_inside_the_tolerance(seconds: int) -> None:
    assert verify(HEADERS, now=NOW + timedelta(seconds=seconds)) == ID


@pytest.mark.covers("C18")
@pytest.mark.parametrize(
    ("headers", "body", "seconds", "secrets"),
    [
        (HEADERS, BODY, 301, (SECRET,)),
        (HEADERS, BODY, -301, (SECRET,)),
        (HEADERS, BODY, 365 * 86400, (SECRET,)),
        (HEADERS, b'{"test":2432232314}', 0, (SECRET,)),
        (HEADERS, BODY + b"\n", 0, (SECRET,)),
        (HEADERS, b"", 0, (SECRET,)),
        (HEADERS, BODY, 0, (OTHER,)),
        (HEADERS, BODY, 0, ()),
        (changed(id=None), BODY, 0, (SECRET,)),
        (changed(timestamp=None), BODY, 0, (SECRET,)),
        (changed(signature=None), BODY, 0, (SECRET,)),
        (changed(id="msg_other"), BODY, 0, (SECRET,)),
        (changed(id=""), BODY, 0, (SECRET,)),
        (changed(timestamp="1614265331"), BODY, 0, (SECRET,)),
        (changed(timestamp="noon"), BODY, 0, (SECRET,)),
        (changed(timestamp="-5"), BODY, 0, (SECRET,)),
        (changed(timestamp="9" * 400), BODY, 0, (SECRET,)),
        (changed(timestamp="\u0661"), BODY, 0, (SECRET,)),
        (changed(signature=""), BODY, 0, (SECRET,)),
        (changed(signature=SIGNATURE.removeprefix("v1,")), BODY, 0, (SECRET,)),
        (changed(signature="v1a," + SIGNATURE.removeprefix("v1,")), BODY, 0, (SECRET,)),
        (changed(signature="v1,\u00e4\udcff"), BODY, 0, (SECRET,)),
        ([*HEADERS, ("webhook-signature", SIGNATURE)], BODY, 0, (SECRET,)),
        ([*HEADERS, ("WEBHOOK-ID", ID)], BODY, 0, (SECRET,)),
        ([*HEADERS, ("webhook-timestamp", STAMP)], BODY, 0, (SECRET,)),
        ([], BODY, 0, (SECRET,)),
    ],
)
def test_everything_else_is_refused_alike(
    headers: list[tuple[str, str]], body: bytes, seconds: int, secrets: tuple[str, ...]
) -> None:
    with pytest.raises(Problem) as caught:
        verify(headers, body, NOW + timedelta(seconds=seconds), secrets)
    assert caught.value.as_json() == {
        "code": "webhook_refused",
        "cause": "the webhook's signature does not verify",
        "next_step": "",
    }


def test_a_secret_that_is_none_is_named() -> None:
    with pytest.raises(Problem, match="webhook_secret_invalid"):
        verify(HEADERS, secrets=("whsec_not base64!",))


# The example of GitHub's documentation.
HELLO, EVERYBODY = b"Hello, World!", "It's a Secret to Everybody"
HELLO_HEX = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
HELLO_BASE64 = "dXEH6g6yUJ/CESIczphLijdXC211hsIsRvQ3nIsEPhc="


@pytest.mark.parametrize(
    ("scheme", "value"),
    [
        (webhook.HMAC_HEX, HELLO_HEX),
        (webhook.HMAC_HEX, f"sha256={HELLO_HEX}"),
        (webhook.HMAC_HEX, HELLO_HEX.upper()),
        (webhook.HMAC_BASE64, HELLO_BASE64),
        (webhook.TOKEN, EVERYBODY),
    ],
)
def test_one_header_schemes(scheme: str, value: str) -> None:
    given = [("X-Hub-Signature-256", value), ("X-Delivery", "d1")]
    for secrets in ((EVERYBODY,), ("old", EVERYBODY)):
        found = webhook.verify(scheme, given, HELLO, secrets, NOW, header="x-hub-signature-256", id_header="x-delivery")
        assert found == "d1"
    assert webhook.verify(scheme, given[:1], HELLO, [EVERYBODY], NOW, header="X-Hub-Signature-256") is None


@pytest.mark.parametrize("scheme", [webhook.HMAC_HEX, webhook.HMAC_BASE64, webhook.TOKEN])
@pytest.mark.parametrize("value", ["", "sha256=", "wrong", None])
def test_one_header_schemes_refuse(scheme: str, value: str | None) -> None:
    given = [] if value is None else [("x-signature", value)]
    for secrets in (["secret"], []):
        with pytest.raises(Problem, match="webhook_refused"):
            webhook.verify(scheme, given, HELLO, secrets, NOW)


@pytest.mark.parametrize("scheme", [webhook.HMAC_HEX, webhook.HMAC_BASE64, webhook.TOKEN, webhook.STANDARD])
def test_what_is_signed_verifies_and_repeated_headers_do_not(scheme: str) -> None:
    headers = list(webhook.sign(scheme, HELLO, SECRET, "d1", NOW).items())
    webhook.verify(scheme, headers, HELLO, [SECRET], NOW)
    with pytest.raises(Problem, match="webhook_refused"):
        webhook.verify(scheme, headers + headers[-1:], HELLO, [SECRET], NOW)


def test_unsigned_and_unknown_schemes() -> None:
    assert webhook.sign(webhook.NONE, HELLO, "", "d1", NOW) == {}
    assert webhook.verify(webhook.NONE, [("x-id", "d1")], HELLO, [], NOW, id_header="x-id") == "d1"
    assert webhook.verify(webhook.NONE, [], HELLO, [], NOW) is None
    with pytest.raises(Problem, match="webhook_scheme_unknown"):
        webhook.verify("rot13", [], HELLO, ["x"], NOW)
