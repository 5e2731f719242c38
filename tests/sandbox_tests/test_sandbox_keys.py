"""Access keys over real sockets: rights, life, addresses, nonces, what the query hash covers, each with its name."""

import contextlib
import http.client
import json
import ssl
import time
import tracemalloc
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import upbit

from infra.errors import BadSettings
from infra.upbit import signing
from infra.upbit.rates import permission_of
from infra.upbit.signing import BadToken
from producers.sandbox.keys import MOST_KEYS, YEAR_MS, Keys
from producers.sandbox.rest import Nonces
from producers.sandbox.thread import SandboxThread

from .conftest import SMALL, connect, receive
from .test_sandbox_orders import call, error_of, limit


def make(sandbox: SandboxThread, **values: Any) -> tuple[str, str]:
    made = sandbox.control("POST", "/sandbox/keys", {"account": sandbox.access_key, **values})
    return made["access_key"], made["secret_key"]


@pytest.fixture(autouse=True)
def _few_keys(sandbox: SandboxThread) -> Iterator[None]:
    yield
    path = "/sandbox/keys"
    for key in sandbox.control("GET", f"{path}?account={sandbox.access_key}")["keys"][1:]:
        sandbox.control("DELETE", f"{path}/{key['access_key']}")


# --- rights -----------------------------------------------------------------------------------------------------------

CALLS = [
    ("GET", "/v1/accounts", "view_account"),
    ("GET", "/v1/orders/chance", "view_orders"),
    ("GET", "/v1/order", "view_orders"),
    ("GET", "/v1/orders/open", "view_orders"),
    ("GET", "/v1/orders/closed", "view_orders"),
    ("GET", "/v1/orders/uuids", "view_orders"),
    ("POST", "/v1/orders", "make_orders"),
    ("POST", "/v1/orders/test", "make_orders"),
    ("POST", "/v1/orders/cancel_and_new", "make_orders"),
    ("DELETE", "/v1/order", "make_orders"),
    ("DELETE", "/v1/orders/open", "make_orders"),
    ("DELETE", "/v1/orders/uuids", "make_orders"),
    ("DELETE", "/v1/withdraws/coin", "withdraw"),
    ("GET", "/v1/api_keys", ""),
    ("GET", "/v1/status/wallet", ""),
]


@pytest.mark.parametrize("permission", ["view_account", "view_orders", "make_orders", "withdraw"])
def test_a_key_does_what_it_may(sandbox: SandboxThread, permission: str) -> None:
    keys = make(sandbox, permissions=[permission])
    for method, path, needed in CALLS:
        status, body, headers = call(sandbox, method, path, keys=keys)
        error = body.get("error", {}) if isinstance(body, dict) else {}
        is_refused = (status, error.get("name")) == (403, "out_of_scope")
        assert is_refused == (needed not in ("", permission)), (method, path, status, body)
        assert headers["Remaining-Req"], path
        assert permission_of(method, path) == needed


def test_a_private_websocket_needs_the_right_of_each_type(sandbox: SandboxThread) -> None:
    for permission, kind, is_allowed in [
        ("view_orders", "myOrder", True),
        ("view_orders", "myAsset", False),
        ("view_account", "myAsset", True),
        ("view_account", "myOrder", False),
    ]:
        header = [f"Authorization: {signing.sign(*make(sandbox, permissions=[permission]))}"]
        client = connect(sandbox.ws_url + "/private", {"type": kind}, header=header)
        if is_allowed:
            client.send('[{"ticket":"t"},{"method":"LIST_SUBSCRIPTIONS"}]')
            assert receive(client)[1]["result"][0]["type"] == kind
        else:
            assert receive(client)[1]["error"]["name"] == "INVALID_AUTH"
        client.shutdown()


# --- life and addresses -----------------------------------------------------------------------------------------------


def test_a_key_that_has_run_out(sandbox: SandboxThread) -> None:
    keys = make(sandbox, expires_in_seconds=-1)
    assert error_of(call(sandbox, "GET", "/v1/accounts", keys=keys)) == (401, "expired_access_key")
    living = make(sandbox, expires_in_seconds=3600)
    assert call(sandbox, "GET", "/v1/accounts", keys=living)[0] == 200


def test_a_key_is_good_from_its_addresses_only(sandbox: SandboxThread) -> None:
    keys = make(sandbox, addresses=["127.0.0.9", "10.0.0.1"])
    assert error_of(call(sandbox, "GET", "/v1/accounts", keys=keys)) == (401, "no_authorization_ip")
    line = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=10, source_address=("127.0.0.9", 0))
    with contextlib.closing(line):
        line.request("GET", "/v1/accounts", headers={"Authorization": signing.sign(*keys)})
        answer = line.getresponse()
        assert (answer.status, len(json.loads(answer.read()))) == (200, 1)


def test_addresses_count_through_the_front_as_well(tmp_path: Path) -> None:
    with SandboxThread(tmp_path, plan=SMALL, warmup_seconds=0, front_port=0) as running:
        keys = make(running, addresses=["127.0.0.9"])
        context = ssl.create_default_context(cafile=str(tmp_path / "run" / "sandbox-authority.pem"))
        for address, status in [("127.0.0.9", 200), ("127.0.0.1", 401)]:
            line = http.client.HTTPSConnection(
                "127.0.0.1", running.sandbox.front.port, timeout=10, context=context, source_address=(address, 0)
            )
            line.set_tunnel("api.upbit.com", 443)
            with contextlib.closing(line):
                line.request("GET", "/v1/accounts", headers={"Authorization": signing.sign(*keys)})
                answer = line.getresponse()
                answer.read()
                assert answer.status == status


def test_a_key_taken_back_is_unknown(sandbox: SandboxThread) -> None:
    keys = make(sandbox)
    assert call(sandbox, "GET", "/v1/accounts", keys=keys)[0] == 200
    sandbox.control("DELETE", f"/sandbox/keys/{keys[0]}")
    assert error_of(call(sandbox, "GET", "/v1/accounts", keys=keys)) == (401, "invalid_access_key")
    assert not (sandbox.configuration.secrets_path / keys[0]).exists()


def test_keys_are_listed_by_the_official_client(sandbox: SandboxThread) -> None:
    keys = make(sandbox, permissions=["view_orders"], expires_in_seconds=86_400)
    client = upbit.Upbit(access_key=keys[0], secret_key=keys[1], base_url=sandbox.url, max_retries=0, timeout=3)
    with client:
        rows = client.api_keys.list()
        assert [row.access_key for row in rows] == [sandbox.access_key, keys[0]]
        assert rows[1].expire_at.endswith("+09:00")
        wallets = client.wallet_status.list()
        assert {row.currency for row in wallets} == {"BTC", "ETH", "XRP"}
        assert {row.wallet_state for row in wallets} == {"unsupported"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"account": "nobody"},
        {"account": 7},
        {"permissions": ["fly"]},
        {"permissions": "view_orders"},
        {"addresses": ["here"]},
        {"addresses": [f"10.0.0.{n}" for n in range(11)]},
        {"expires_in_seconds": "soon"},
        {"expires_in_seconds": True},
        {"expires_in_seconds": 1e300},
        {"more": 1},
    ],
)
def test_nonsense_makes_no_key(sandbox: SandboxThread, wrong: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400") as caught:
        make(sandbox, **wrong)
    caught.value.close()
    assert len(sandbox.control("GET", f"/sandbox/keys?account={sandbox.access_key}")["keys"]) == 1


def test_no_more_than_ten_keys_and_an_accounts_own_stays(sandbox: SandboxThread) -> None:
    for _ in range(MOST_KEYS - 1):
        make(sandbox)
    for refused in (
        lambda: make(sandbox),
        lambda: sandbox.control("DELETE", f"/sandbox/keys/{sandbox.access_key}"),
        lambda: sandbox.control("DELETE", "/sandbox/keys/..%2Fsandbox-control"),
    ):
        with pytest.raises(urllib.error.HTTPError, match="400") as caught:
            refused()
        caught.value.close()


def test_keys_survive_a_new_start(tmp_path: Path) -> None:
    with SandboxThread(tmp_path, plan=SMALL, warmup_seconds=0) as first:
        keys = make(first, permissions=["view_orders"], addresses=["127.0.0.1"])
        before = first.control("GET", f"/sandbox/keys?account={first.access_key}")["keys"][1]
    with SandboxThread(tmp_path, plan=SMALL, warmup_seconds=0) as second:
        assert second.control("GET", f"/sandbox/keys?account={second.access_key}")["keys"][1] == before
        assert call(second, "GET", "/v1/orders/open", keys=keys)[0] == 200
        assert error_of(call(second, "GET", "/v1/accounts", keys=keys)) == (403, "out_of_scope")
    assert keys[1] not in (tmp_path / "db" / "sandbox-keys.json").read_text()


def test_a_damaged_file_of_keys_is_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('[{"access_key":"a"}]')
    with pytest.raises(BadSettings, match=r"keys\.json cannot be read"):
        Keys(path, tmp_path, [], lambda: 0)


def test_an_accounts_own_key_runs_out_a_year_after_the_start(tmp_path: Path) -> None:
    now = [1_000]
    keys = Keys(tmp_path / "keys.json", tmp_path, ["a"], lambda: now[0])
    now[0] += YEAR_MS - 1
    keys.admit("a", "127.0.0.1")
    now[0] += 1
    with pytest.raises(BadToken, match="만료"):
        keys.admit("a", "127.0.0.1")
    with pytest.raises(BadToken, match="엑세스"):
        keys.admit("b", "127.0.0.1")


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", signing.ALGORITHMS)
def test_both_algorithms_and_a_nonce_is_used_once(sandbox: SandboxThread, algorithm: str) -> None:
    keys, other = make(sandbox), make(sandbox)
    token = signing.sign(*keys, algorithm=algorithm, nonce="n-1")
    assert call(sandbox, "GET", "/v1/accounts", token=token)[0] == 200
    assert error_of(call(sandbox, "GET", "/v1/accounts", token=token)) == (401, "nonce_used")
    again = signing.sign(*keys, algorithm="HS512", nonce="n-1")
    assert error_of(call(sandbox, "GET", "/v1/accounts", token=again)) == (401, "nonce_used")
    assert call(sandbox, "GET", "/v1/accounts", token=signing.sign(*other, nonce="n-1"))[0] == 200


def test_a_refused_token_does_not_use_up_its_nonce(sandbox: SandboxThread) -> None:
    keys = make(sandbox)
    wrong = signing.sign(*keys, "a=b", nonce="n-2")
    assert error_of(call(sandbox, "GET", "/v1/accounts", token=wrong)) == (401, "invalid_query_payload")
    assert call(sandbox, "GET", "/v1/accounts", token=signing.sign(*keys, nonce="n-2"))[0] == 200


def test_only_the_newest_nonces_are_remembered_and_a_long_one_costs_no_more() -> None:
    nonces = Nonces(most=3)
    assert all(nonces.is_new("a", nonce) for nonce in ("1", "2", "3", "4"))
    assert not nonces.is_new("a", "2")
    assert nonces.is_new("a", "1"), "the oldest gave way"
    assert nonces.is_new("a1", ""), "key and nonce are told apart"
    many = Nonces(most=1_000)
    tracemalloc.start()
    try:
        assert all(many.is_new("a", f"\ud800{number}" * 1_000) for number in range(2_000))
        held = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/sandbox/rest.py")])
        assert sum(one.size for one in held.statistics("filename")) < 200_000  # what other threads hold is not ours
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("sent", "hashed", "is_good"),
    [
        ("states[]=wait&states[]=watch&limit=10", "states[]=wait&states[]=watch&limit=10", True),
        ("states%5B%5D=wait&states%5B%5D=watch", "states[]=wait&states[]=watch", True),
        ("states%5B%5D=wait&states%5B%5D=watch", "states%5B%5D=wait&states%5B%5D=watch", False),
        ("limit=10&page=1", "page=1&limit=10", False),
        ("limit=10&page=1", "limit=10", False),
        ("limit=10", "", False),
        ("", "limit=10", False),
    ],
)
def test_the_hash_covers_the_query_as_it_is_before_encoding(
    sandbox: SandboxThread, sent: str, hashed: str, *, is_good: bool
) -> None:
    token = signing.sign(sandbox.access_key, sandbox.secret_key, hashed)
    status, body, _ = call(sandbox, "GET", "/v1/orders/open", query=sent, token=token)
    assert (status if is_good else error_of((status, body, None))) == (
        200 if is_good else (401, "invalid_query_payload")
    )


def test_the_hash_covers_a_body_in_its_own_order_and_spelling(sandbox: SandboxThread) -> None:
    def sent(raw: str, hashed: str) -> Any:
        token = signing.sign(sandbox.access_key, sandbox.secret_key, hashed)
        status, body, _ = call(sandbox, "POST", "/v1/orders/test", raw=raw.encode(), token=token)
        return body.get("error", {}).get("name", status)

    order = limit()
    assert sent(json.dumps(order), signing.query_of(order)) == 201
    assert sent(json.dumps(order), signing.query_of(dict(reversed(order.items())))) == "invalid_query_payload"
    raw = '{"market":"KRW-BTC","side":"bid","ord_type":"limit","volume":0.00050,"price":10000000.0}'
    pairs = "market=KRW-BTC&side=bid&ord_type=limit&volume=0.00050&price=10000000.0"
    assert sent(raw, pairs) == 201
    assert sent(raw, pairs.replace("0.00050", "0.0005")) == "invalid_query_payload"
    assert sent("[" * 50_000, "") == "bad_request"
    assert sent('{"a":' * 50_000, "") == "bad_request"


def test_a_forged_token_opens_nothing(sandbox: SandboxThread) -> None:
    key = sandbox.access_key
    claims = {"access_key": key, "nonce": "forged"}
    unsigned = "Bearer " + jwt.encode(claims, "", algorithm="none")
    for token in (unsigned, "Bearer " + jwt.encode(claims, "y" * 64, algorithm="HS512"), "Bearer a.b.c"):
        assert error_of(call(sandbox, "GET", "/v1/accounts", token=token)) == (401, "jwt_verification")
    for claim in (
        {"access_key": ["x"], "nonce": "n"},
        {"nonce": "n"},
        {"access_key": "../sandbox-control", "nonce": "n"},
    ):
        token = "Bearer " + jwt.encode(claim, "y" * 64)
        assert error_of(call(sandbox, "GET", "/v1/accounts", token=token)) == (401, "invalid_access_key")
    other_hash = "Bearer " + jwt.encode(
        {**claims, "query_hash": signing.hash_of("limit=1"), "query_hash_alg": "MD5", "nonce": str(time.time_ns())},
        sandbox.secret_key,
    )
    answer = call(sandbox, "GET", "/v1/orders/open", query="limit=1", token=other_hash)
    assert error_of(answer) == (401, "invalid_query_payload")
