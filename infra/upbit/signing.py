"""Signing and checking of Upbit requests: JSON web tokens with a hash over the query; used by gateway and sandbox.

The secret is used as raw bytes. The hash covers the query as it is before URL-encoding (a body: its pairs in its own
order). It must never log a key, a secret or a token.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import jwt

ALGORITHMS = ("HS256", "HS512")


class BadToken(Exception):  # noqa: N818 - named by what happened
    """The token is refused; `name` is the exchange's error name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
        self.text = text


def query_of(pairs: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """`market=KRW-BTC&states[]=wait&states[]=watch`: unencoded, lists repeat the bracketed key, None is left out."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    parts: list[str] = []
    for key, value in items:
        if value is None:
            continue
        if isinstance(value, list | tuple):
            name = key if key.endswith("[]") else key + "[]"
            parts += [f"{name}={_text(item)}" for item in value]
        else:
            parts.append(f"{key}={_text(value)}")
    return "&".join(parts)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def hash_of(query: str) -> str:
    """SHA-512 in hex."""
    return hashlib.sha512(query.encode()).hexdigest()


def sign(access_key: str, secret_key: str, query: str = "", *, algorithm: str = "HS512", nonce: str = "") -> str:
    """The `Authorization` header's value, with a fresh nonce unless one is given."""
    claims = {"access_key": access_key, "nonce": nonce or str(uuid.uuid4())}
    if query:
        claims |= {"query_hash": hash_of(query), "query_hash_alg": "SHA512"}
    return "Bearer " + jwt.encode(claims, secret_key, algorithm=algorithm)


def verify(
    header: str | None,
    query: str,
    secret_of: Callable[[str], str | None],
    is_new_nonce: Callable[[str, str], bool],
    admit: Callable[[str], None] = lambda _: None,
) -> str:
    """Return the access key of a good token; raises `BadToken` with the exchange's names.

    `query` is what was really sent, unencoded; `is_new_nonce(access_key, nonce)` remembers; `admit(access_key)` may
    refuse a well-signed key with `BadToken` (expired, address).
    """
    if not header or not header.startswith("Bearer "):
        raise BadToken("no_authorization_token", "토큰이 없습니다.")
    token = header.removeprefix("Bearer ").strip()
    claims = _unverified(token)
    access_key = claims.get("access_key")
    secret = secret_of(access_key) if isinstance(access_key, str) else None
    if secret is None or not isinstance(access_key, str):
        raise BadToken("invalid_access_key", "잘못된 엑세스 키입니다.")
    try:
        jwt.decode(token, secret, algorithms=list(ALGORITHMS))
    except jwt.PyJWTError:
        raise BadToken("jwt_verification", "Jwt 토큰 검증에 실패했습니다.") from None
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not nonce:
        raise BadToken("jwt_verification", "Jwt 토큰 검증에 실패했습니다.")
    admit(access_key)
    _check_query(claims, query)
    if not is_new_nonce(access_key, nonce):
        raise BadToken("nonce_used", "이미 요청한 nonce값이 다시 사용되었습니다.")
    return access_key


def _unverified(token: str) -> dict[str, Any]:
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        raise BadToken("jwt_verification", "Jwt 토큰 검증에 실패했습니다.") from None
    return dict(claims)


def _check_query(claims: Mapping[str, Any], query: str) -> None:
    given = claims.get("query_hash")
    if not query and given is None:
        return
    if claims.get("query_hash_alg", "SHA512") != "SHA512" or given != hash_of(query):
        raise BadToken("invalid_query_payload", "Failed to verify the query of Jwt.")


def query_of_request(raw_query: str, body: bytes) -> str:
    """What the hash must cover: the URL's query unencoded, else the pairs of the body; `ValueError` for a bad body.

    Numbers of the body stay as they were written.
    """
    if raw_query:
        return unquote(raw_query)
    if not body:
        return ""
    try:
        pairs = json.loads(body, parse_int=str, parse_float=str, parse_constant=str)
        if isinstance(pairs, dict):
            query = query_of(pairs)
            query.encode()  # half of a surrogate pair is a ValueError here, and cannot be signed by anybody
            return query
    except RecursionError:
        pass
    raise ValueError("the body is no JSON object, or nested too deep")
