"""What the API answers when it refuses: status, name and a sentence in English and Korean. Pure; used by `api` only."""

from typing import Literal

from fastapi.responses import JSONResponse

Language = Literal["en", "ko"]

_WORDS: dict[str, tuple[int, str, str]] = {
    "wrong-host": (
        421,
        "This is not the address that the API answers at: use 127.0.0.1 and its port.",
        "API가 응답하는 주소가 아닙니다. 127.0.0.1과 해당 포트를 사용하세요.",
    ),
    "no-token": (
        401,
        "Send the token of the run folder (run/secrets/api-token) as `Authorization: Bearer ...`.",
        "실행 폴더의 토큰(run/secrets/api-token)을 `Authorization: Bearer ...`로 보내세요.",
    ),
    "not-json": (
        415,
        "Send JSON, with `Content-Type: application/json`.",
        "`Content-Type: application/json`으로 JSON을 보내세요.",
    ),
    "no-length": (411, "Send the body's length (`Content-Length`).", "본문 길이(`Content-Length`)를 보내세요."),
    "too-large": (413, "The body is larger than {most} bytes.", "본문이 {most}바이트보다 큽니다."),
    "bad-body": (
        422,
        "The body cannot be used. Wrong, missing or unknown: {fields}.",
        "본문을 사용할 수 없습니다. 잘못되었거나 없거나 모르는 항목: {fields}.",
    ),
    "not-found": (404, "There is nothing at this path.", "이 경로에는 아무것도 없습니다."),
    "wrong-method": (405, "This path does not take this method.", "이 경로는 이 메서드를 받지 않습니다."),
    "refused": (409, "{text}", "{text}"),
    "log-away": (
        503,
        "Kafka does not answer: what it knows cannot be shown or told now. Halts work without it.",
        "Kafka가 응답하지 않아 지금은 보여 주거나 전달할 수 없습니다. 긴급 정지는 Kafka 없이도 됩니다.",
    ),
    "failed": (
        500,
        "This failed; the log of the process `api` says why.",
        "실패했습니다. 이유는 `api` 프로세스의 로그에 있습니다.",
    ),
}


def refusal(name: str, language: Language, **values: object) -> JSONResponse:
    """The answer that says why not."""
    status, *sentences = _WORDS[name]
    message = sentences[language == "ko"].format(**values)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": {"name": name, "message": message}}, status, headers)


def language_of(accepted: str) -> Language:
    """The better liked of both by an `Accept-Language` header; English where it names neither."""
    liked: dict[str, float] = {}
    for part in accepted.split(","):
        tag, _, quality = part.partition(";")
        name = tag.strip().lower().partition("-")[0]
        try:
            weight = float(quality.strip().removeprefix("q=")) if quality else 1.0
        except ValueError:
            continue
        liked[name] = max(weight, liked.get(name, 0.0))
    return "ko" if liked.get("ko", 0.0) > liked.get("en", 0.0) else "en"
