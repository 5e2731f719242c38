"""What the exchange says of a key, asked over HTTP at the real sandbox: every right, life, address and refusal."""

from collections.abc import Iterator

import pytest

from consumers.execute.keys_check import check_key
from consumers.execute.keys_words import KEY_WORDS, KeyReason, words_of
from infra.errors import ExchangeUnavailable, Unsupported
from infra.secrets import Secret
from infra.upbit.rates import PERMISSIONS
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread

TRADING = ["view_account", "view_orders", "make_orders"]
NOW = 1_700_000_000_000


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    home = tmp_path_factory.mktemp("sandbox")
    plan = Plan(markets=("KRW-BTC",))
    with SandboxThread(home, kind="synthetic", plan=plan, warmup_seconds=0, is_limited=False) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def _few_keys(sandbox: SandboxThread) -> Iterator[None]:
    yield
    sandbox.clear_faults()
    for key in sandbox.control("GET", f"/sandbox/keys?account={sandbox.access_key}")["keys"][1:]:
        sandbox.control("DELETE", f"/sandbox/keys/{key['access_key']}")


def made(sandbox: SandboxThread, **values: object) -> tuple[str, Secret]:
    key = sandbox.control("POST", "/sandbox/keys", {"account": sandbox.access_key, **values})
    return key["access_key"], Secret(key["secret_key"])


def checked(sandbox: SandboxThread, key: tuple[str, Secret]) -> KeyReason | None:
    return check_key(sandbox.url, *key, NOW).reason


def test_a_key_that_may_trade_and_nothing_else_is_good(sandbox: SandboxThread) -> None:
    access_key, secret_key = made(sandbox, permissions=TRADING)
    found = check_key(sandbox.url, access_key, secret_key, NOW)
    assert found.reason is None
    assert access_key in found.keys
    assert found.expires_ms is not None
    assert found.expires_ms > NOW
    assert access_key not in repr(found)
    orders = sandbox.truth()
    assert orders == [], "a check places no order"


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("view_account", KeyReason.NO_ASSET_RIGHT),
        ("view_orders", KeyReason.NO_VIEW_RIGHT),
        ("make_orders", KeyReason.NO_ORDER_RIGHT),
    ],
)
def test_a_right_that_is_missing_is_named(sandbox: SandboxThread, missing: str, reason: KeyReason) -> None:
    assert checked(sandbox, made(sandbox, permissions=[one for one in TRADING if one != missing])) is reason


def test_a_key_that_may_withdraw_is_refused(sandbox: SandboxThread) -> None:
    assert checked(sandbox, made(sandbox, permissions=[*TRADING, "withdraw"])) is KeyReason.MAY_WITHDRAW
    assert checked(sandbox, made(sandbox, permissions=list(PERMISSIONS))) is KeyReason.MAY_WITHDRAW
    assert checked(sandbox, (sandbox.access_key, Secret(sandbox.secret_key))) is KeyReason.MAY_WITHDRAW
    assert checked(sandbox, made(sandbox, permissions=[*TRADING, "view_withdrawals"])) is None


def test_a_withdrawal_that_is_refused_for_another_reason_does_not_prove_that_the_right_is_missing(
    sandbox: SandboxThread,
) -> None:
    key = made(sandbox, permissions=[*TRADING, "withdraw"])
    sandbox.fault("refused", method="DELETE", path="/v1/withdraws/coin", error="open_api_withdraw_locked")
    assert checked(sandbox, key) is KeyReason.MAY_WITHDRAW


def test_wrong_expired_and_elsewhere(sandbox: SandboxThread) -> None:
    access_key, _ = made(sandbox, permissions=TRADING)
    assert checked(sandbox, (access_key, Secret("a" * 40))) is KeyReason.WRONG_KEY
    assert checked(sandbox, ("b" * 40, Secret("a" * 40))) is KeyReason.WRONG_KEY
    assert checked(sandbox, made(sandbox, permissions=TRADING, expires_in_seconds=-1)) is KeyReason.EXPIRED
    away = made(sandbox, permissions=TRADING, addresses=["10.0.0.1"])
    assert checked(sandbox, away) is KeyReason.ADDRESS_NOT_ALLOWED


@pytest.mark.parametrize("path", ["/v1/api_keys", "/v1/accounts", "/v1/orders/chance"])
@pytest.mark.parametrize("fault", ["server-error", "lost-request", "rate-limited"])
def test_no_answer_proves_nothing(sandbox: SandboxThread, path: str, fault: str) -> None:
    key = made(sandbox, permissions=TRADING)
    sandbox.fault(fault, method="GET", path=path)
    with pytest.raises(ExchangeUnavailable) as found:
        checked(sandbox, key)
    assert key[0] not in str(found.value)
    assert checked(sandbox, key) is None


def test_no_answer_about_withdrawals_proves_nothing_either(sandbox: SandboxThread) -> None:
    key = made(sandbox, permissions=TRADING)
    sandbox.fault("server-error", method="DELETE", path="/v1/withdraws/coin")
    with pytest.raises(ExchangeUnavailable):
        checked(sandbox, key)


def test_no_key_is_ever_shown_to_a_real_exchange() -> None:
    with pytest.raises(Unsupported, match="sandbox exchange on this machine only"):
        check_key("https://api.upbit.com", "a" * 40, Secret("b" * 40), NOW)


def test_every_reason_has_its_sentence_in_both_languages() -> None:
    assert set(KEY_WORDS) == set(KeyReason)
    for reason in KeyReason:
        assert words_of(reason) != words_of(reason, "ko")
        assert any("가" <= letter <= "힣" for letter in words_of(reason, "ko"))
