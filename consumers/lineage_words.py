"""The chain of `lineage` in words for people, Korean and English. Pure."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from consumers.trade.reasons import text_of

Language = Literal["en", "ko"]

_WORDS: dict[str, tuple[str, str]] = {
    "title": ("Order {intent_id}", "주문 {intent_id}"),
    "events": ("What became of it", "주문의 경과"),
    "journal": ("The executor's journal: {state}, attempts {attempt}", "실행기 장부: {state}, 시도 {attempt}회"),
    "no-journal": (
        "The executor's journal is not on this machine, or does not know the order.",
        "실행기 장부가 이 컴퓨터에 없거나 이 주문을 모릅니다.",
    ),
    "attempt": (
        "attempt {number} as {identifier}: {state}, executed {executed_quantity} for {executed_funds}, fee {paid_fee}",
        "{number}번째 시도 {identifier}: {state}, 체결 {executed_quantity}, 금액 {executed_funds}, 수수료 {paid_fee}",
    ),
    "intent": (
        "The decision: {side} {market}, {purpose}, because of {cause_kind} {cause_id} ({reason})",
        "판단: {market} {side_ko}, {purpose_ko}, 이유 {cause_kind} {cause_id} ({reason})",
    ),
    "signal": (
        "The forecast: {expected_bp:+.2f} bp over {seconds:g} s for the bin that ended {bin}, {licence}",
        "예측: {bin}에 끝난 구간에서 {seconds:g}초 동안 {expected_bp:+.2f} bp, {licence}",
    ),
    "licensed": ("licensed", "주문 허용됨"),
    "request": (
        "A person's order: {side} {market} by {by}, asked for at {at}",
        "사용자 주문: {market} {side_ko}, 요청자 {by}, 요청 시각 {at}",
    ),
    "changed": ("changed or cancelled by {by} at {at}", "변경 또는 취소: {by}, {at}"),
    "halt": ("The kill switch {kind} of {account} by {by}, {at}", "긴급 정지 {kind}, 계정 {account}, {by}, {at}"),
    "model": (
        "The model: {name} ({id}), trained on {trained_on} data; the card: {rows} rows, {limits}",
        "모델: {name} ({id}), 학습 데이터 {trained_on}; 카드: {rows}행, {limits}",
    ),
    "features": (
        "The feature row: {n_books} books and {n_trades} trades in the bin, run of {n_bins} bins, schema {schema}",
        "특징 행: 구간 안 호가 {n_books}건, 체결 {n_trades}건, 연속 {n_bins}구간, 스키마 {schema}",
    ),
    "raw": (
        "The raw records of that bin in {topic}: {count} of {counted}",
        "그 구간의 원본 레코드 {topic}: {counted}건 중 {count}건",
    ),
    "closed": ("closed by the heartbeat", "구간을 닫은 하트비트"),
    "entry": ("It closes the position of this entry:", "다음 진입 주문의 포지션을 닫은 주문입니다:"),
    "manifests": ("What the processes ran with", "프로세스의 실행 조건"),
    "manifest": (
        "{process}: {id}, version {version}, code {git_sha}",
        "{process}: {id}, 버전 {version}, 코드 {git_sha}",
    ),
    "retention": (
        "Gone: {link}. The topic {text} has deleted its oldest records (retention).",
        "없음: {link}. 토픽 {text}의 오래된 레코드는 보관 기간이 지나 삭제되었습니다.",
    ),
    "absent": ("Not found: {link}.", "찾지 못함: {link}."),
    "refused": ("Cannot be read: {link}. {text}", "읽을 수 없음: {link}. {text}"),
}
_KOREAN = {
    "buy": "매수", "sell": "매도", "entry": "진입", "exit": "청산", "protective-exit": "보호 청산",
    "manual": "직접 주문",
}  # fmt: skip


def lines(chain: Mapping[str, Any], language: Language = "en", indent: str = "") -> Iterator[str]:
    """The chain, one line per link, newest link first; coordinates are topic/partition@offset."""
    yield indent + _say("title", language, chain)
    yield from (indent + "  " + line for line in _order(chain, language))
    yield from (indent + "  " + line for line in _cause(chain, language))
    if chain["manifests"]:
        yield f"{indent}  {_say('manifests', language)}"
        for process, told in chain["manifests"].items():
            yield f"{indent}    {_say('manifest', language, {**told['record'], 'process': process})}  {_place(told)}"
    for gone in chain["missing"]:
        yield f"{indent}  {_say(gone['reason'], language, gone)}"
    if chain["entry"] is not None:
        yield f"{indent}  {_say('entry', language)}"
        yield from lines(chain["entry"], language, indent + "    ")


def _order(chain: Mapping[str, Any], language: Language) -> Iterator[str]:
    if chain["events"]:
        yield _say("events", language)
    for told in chain["events"]:
        record = told["record"]
        yield f"  {_time(record['event_ms'])} {record['type']} {_detail(record)}  {_place(told)}"
    journal = chain["journal"]
    if journal is None:
        yield _say("no-journal", language)
    else:
        yield _say("journal", language, journal)
        yield from (f"  {_say('attempt', language, attempt)}" for attempt in journal["attempts"])
    if chain["intent"] is not None:
        yield f"{_say('intent', language, chain['intent']['record'])}  {_place(chain['intent'])}"


def _cause(chain: Mapping[str, Any], language: Language) -> Iterator[str]:
    if (request := chain["request"]) is not None and "side" in request["record"]:  # else its beginning is gone
        yield f"{_say('request', language, _at(request))}  {_place(request)}"
    for change in chain["request_changes"]:
        yield f"  {_say('changed', language, _at(change))}  {_place(change)}"
    if (halt := chain["halt"]) is not None:
        yield f"{_say('halt', language, _at(halt))}  {_place(halt)}"
    if (signal := chain["signal"]) is not None:
        record = signal["record"]
        licence = _say("licensed", language) if record["is_licensed"] else text_of(record["refusal"], language)
        more = {"seconds": record["horizon_ms"] / 1000, "bin": _time(record["bin_ms"]), "licence": licence}
        yield f"{_say('signal', language, {**record, **more})}  {_place(signal)}"
    if (model := chain["model"]) is not None:
        yield _say("model", language, {**model, "rows": model["card"]["rows"], "limits": model["card"]["limits"]})
    if (features := chain["features"]) is not None:
        yield f"{_say('features', language, features['record'])}  {_place(features)}"
    for raw in (chain["raw"] or {}).values():
        yield from _raw(raw, language)


def _at(told: Mapping[str, Any]) -> dict[str, Any]:
    return {**told["record"], "at": _time(told["record"]["event_ms"])}


def _raw(raw: Mapping[str, Any], language: Language) -> Iterator[str]:
    count = {"count": len(raw["offsets"]), "counted": raw["counted_in_the_row"]}
    place = f"  {raw['topic']}/{raw['partition']}@{','.join(map(str, raw['offsets']))}" if raw["offsets"] else ""
    yield _say("raw", language, {**count, "topic": raw["topic"]}) + place
    if raw["closed_by"] is not None:
        yield f"  {_say('closed', language)}  {_place(raw['closed_by'])}"


def _say(name: str, language: Language, values: Mapping[str, Any] | None = None) -> str:
    if language == "en":
        return _WORDS[name][0].format(**(values or {}))
    named = {f"{key}_ko": _KOREAN.get(str(value), value) for key, value in (values or {}).items()}
    return _WORDS[name][1].format(**named, **(values or {}))


def _place(told: Mapping[str, Any]) -> str:
    return f"{told['topic']}/{told['partition']}@{told['offset']}" if "topic" in told else ""


def _detail(record: Mapping[str, Any]) -> str:
    names = ("identifier", "uuid", "fill_id", "quantity", "price", "fee", "name", "text")
    return " ".join(f"{name}={record[name]}" for name in names if record.get(name))


def _time(event_ms: int) -> str:
    """KST, as people in Korea read it."""
    moment = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=event_ms, hours=9)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
