import base64
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from streams.messages import SignalIds, _base32, content_id, signal_id


@given(st.binary(min_size=16, max_size=16))
def test_base32_is_the_library_s(digest: bytes) -> None:
    assert _base32(digest) == base64.b32encode(digest).decode().rstrip("=").lower()


@given(
    st.text(max_size=8), st.text(max_size=12), st.integers(0, 2**62), st.lists(st.integers(0, 10**9), max_size=4),
    st.text(max_size=30),
)  # fmt: skip
def test_ids_in_bulk_are_the_ids_one_by_one(
    exchange: str, market: str, bin_ms: int, horizons_ms: list[int], model_id: str
) -> None:
    ids = SignalIds(model_id, "v1", horizons_ms)
    for _ in range(2):
        assert ids.of(exchange, market, bin_ms) == [
            signal_id(exchange, market, bin_ms, horizon_ms, model_id, "v1") for horizon_ms in horizons_ms
        ]


def test_an_id_is_the_hash_that_it_always_was() -> None:
    fed = b"s\x06\x00\x00\x00signali\x05" + b"\x00" * 7
    digest = hashlib.blake2b(fed, digest_size=16).digest()
    assert content_id("signal", 5) == base64.b32encode(digest).decode().rstrip("=").lower()
