"""What the verbs `halt` and `resume` say, in English and Korean. Pure; used by `halts_verbs` only."""

from typing import Literal

from consumers.execute.halts_file import ALL_ACCOUNTS, Standing

Language = Literal["en", "ko"]

_WORDS: dict[str, tuple[str, str]] = {
    "written": ("The halt of {who} is written: {kind}.", "{who}의 긴급 정지를 기록했습니다: {kind}."),
    "no-executor": (
        "No order executor works here. The halt holds: one that begins reads it first. Open orders stay till then.",
        "여기서 일하는 실행기가 없습니다. 정지는 유효하며 실행기가 시작되면 먼저 읽습니다. 미체결은 그때까지 남습니다.",
    ),
    "log-told": ("The other stages were told through Kafka.", "다른 단계에는 Kafka로 알렸습니다."),
    "log-away": (
        "Kafka does not answer: the executor tells the other stages when both are back.",
        "Kafka가 응답하지 않습니다. 둘 다 돌아오면 실행기가 다른 단계에 알립니다.",
    ),
    "closed": (
        "Gate closed after {ms} ms: no new order leaves from now on.",
        "{ms} ms 만에 차단했습니다. 지금부터 새 주문은 나가지 않습니다.",
    ),
    "progress": (
        "Settling: {in_flight} requests in flight, {open_orders} open orders, {unsold} markets to sell.",
        "정리 중: 응답 대기 {in_flight}건, 미체결 주문 {open_orders}건, 매도할 종목 {unsold}개.",
    ),
    "settled": (
        "Settled after {seconds} s: nothing is in flight, nothing is open.",
        "{seconds}초 만에 정리가 끝났습니다. 응답 대기와 미체결 주문이 없습니다.",
    ),
    "sold": (
        "Settled after {seconds} s: nothing is in flight, nothing is open, everything that was bought is sold.",
        "{seconds}초 만에 정리가 끝났습니다. 응답 대기와 미체결 주문이 없고 매수한 것은 모두 매도했습니다.",
    ),
    "unsettled": (
        "Not settled after {seconds} s. The gate stays closed, and the executor goes on by itself.",
        "{seconds}초 안에 정리가 끝나지 않았습니다. 차단은 유지되고 실행기가 계속 정리합니다.",
    ),
    "unanswered": (
        "The executor runs but did not answer within {seconds} s. The halt holds from its next look at the disk.",
        "실행기가 돌고 있지만 {seconds}초 안에 답하지 않았습니다. 정지는 디스크에 있으며 다음 확인 때부터 유효합니다.",
    ),
    "unknown": (
        "Careful: no order of an account {who} was ever seen here. Is the name right?",
        "주의: {who} 계정의 주문은 여기서 본 적이 없습니다. 이름이 맞습니까?",
    ),
    "not-halted": ("{who} is not halted.", "{who}: 정지 상태가 아닙니다."),
    "deliberate": (
        "Lifting a halt needs a deliberate act: type the name when asked, or give --yes-i-looked.",
        "정지 해제는 의도적으로 해야 합니다. 물어볼 때 이름을 입력하거나 --yes-i-looked를 붙이세요.",
    ),
    "type": ("Type {word} to lift the halt of {who}", "{who}의 정지를 해제하려면 {word} 입력"),
    "mistyped": ("That was not {word}: nothing is lifted.", "{word}이(가) 아닙니다. 해제하지 않았습니다."),
    "lifted": ("The halt of {who} is lifted.", "{who}의 정지를 해제했습니다."),
    "lifted-later": (
        "The end of the halt of {who} is written; it holds when an executor reads it.",
        "{who}의 정지 해제를 기록했습니다. 실행기가 읽으면 적용됩니다.",
    ),
    "still": ("Still halted: {who} ({kind}).", "아직 정지 중: {who} ({kind})."),
    "open": (
        "Open under the halt of {who}: {in_flight} requests in flight, {open_orders} orders, {unsold} markets to sell.",
        "{who} 정지에서 아직 남은 것: 응답 대기 {in_flight}건, 미체결 주문 {open_orders}건, 매도할 종목 {unsold}개.",
    ),
    "everybody": ("all accounts", "모든 계정"),
}


def words(name: str, language: Language, **values: object) -> str:
    """One sentence."""
    return _WORDS[name][language == "ko"].format(**values)


def who(account: str, language: Language) -> str:
    """An account as people call it."""
    return words("everybody", language) if account == ALL_ACCOUNTS else repr(account)


def how_far(name: str, standing: Standing, language: Language) -> str:
    """A sentence about what is left to be done, and what a person should know beside it."""
    sentence = words(
        name,
        language,
        who=who(standing.halt.account, language),
        in_flight=standing.in_flight,
        open_orders=standing.open_orders,
        unsold=standing.unsold,
    )
    return f"{sentence} {standing.text}".rstrip()
