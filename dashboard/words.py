"""Every word on the pages, in Korean and in English; a test holds both lists against each other. Pure."""

from typing import Literal

Language = Literal["ko", "en"]

LANGUAGES: dict[Language, str] = {"ko": "한국어", "en": "English"}

WORDS: dict[str, tuple[str, str]] = {
    "title": ("OBservator · 호가창 자동매매", "OBservator · order-book trading"),
    "paper": ("모의", "PAPER"),
    "synthetic": (
        "합성 시장입니다. 시세·체결·손익은 모두 만들어 낸 값이며 실제 거래와 무관합니다.",
        "Synthetic market: prices, trades and profit on this page are made up and say nothing of real trading.",
    ),
    "recording": (
        "녹화된 시세를 재생하고 있습니다. 지금의 시세가 아닙니다.",
        "A recording is being played: these are not today's prices.",
    ),
    "waiting": (
        "아직 데이터가 없습니다. 첫 호가가 도착하면 자동으로 표시됩니다.",
        "No data yet. The page fills by itself when the first order book arrives.",
    ),
    "database": (
        "화면용 데이터베이스를 열 수 없습니다. `observator status` 로 views 프로세스를 확인하세요.",
        "The page's database cannot be opened. Check the process `views` with `observator status`.",
    ),
    "language": ("언어", "Language"),
    "market": ("마켓", "Market"),
    "horizon": ("예측 구간", "Horizon"),
    "seconds": ("초", "s"),
    "price": ("가격", "Price"),
    "size": ("잔량", "Size"),
    "time": ("시각", "Time"),
    "mid": ("중간가", "Mid price"),
    "spread": ("호가 차이", "Spread"),
    "book": ("호가", "Order book"),
    "trades": ("체결", "Trades"),
    "chart": ("중간가 흐름", "Mid price, last minutes"),
    "signal": ("예측과 실제", "Forecast against outcome"),
    "forecast": ("예측", "forecast"),
    "outcome": ("실제", "outcome"),
    "skill": ("변화 없음 대비 예측력", "Skill against “no change”"),
    "skill_note": (
        "최근 {n}건 기준. 0 이하면 ‘변화 없음’보다 낫지 않습니다.",
        "Over the last {n} forecasts. At or below 0 it is no better than saying “no change”.",
    ),
    "no_outcome": ("결과가 나온 예측이 아직 없습니다.", "No forecast has reached its horizon yet."),
    "features": ("특성", "Features"),
    "name": ("이름", "Name"),
    "value": ("값", "Value"),
    "unit": ("단위", "Unit"),
    "money": ("자산", "Money"),
    "budget": ("운용 금액", "Budget"),
    "free": ("주문가능", "Available"),
    "realised": ("실현손익", "Realised"),
    "unrealised": ("평가손익", "Unrealised"),
    "fees": ("수수료", "Fees"),
    "net_note": ("수수료를 뺀 금액입니다.", "Net of fees."),
    "trading_on": ("자동매매 켜짐", "Trading on"),
    "trading_off": ("자동매매 꺼짐", "Trading off"),
    "positions": ("보유", "Positions"),
    "quantity": ("수량", "Quantity"),
    "average": ("매수평균가", "Average price"),
    "orders": ("주문", "Orders"),
    "side": ("구분", "Side"),
    "buy": ("매수", "Buy"),
    "sell": ("매도", "Sell"),
    "state": ("상태", "State"),
    "purpose": ("목적", "Purpose"),
    "funds": ("금액", "Total"),
    "fee": ("수수료", "Fee"),
    "none": ("없음", "None"),
    "reasons": ("매매하지 않은 이유", "Why no trade"),
    "count": ("횟수", "Count"),
    "reason": ("이유", "Reason"),
    "sign_of_life": (
        "오늘 예측 {n}건, 최고 {best}, 필요 {needed}, 진입 {entries}건",
        "Today {n} forecasts, best {best}, needed {needed}, entries {entries}",
    ),
    "stages": ("단계별 기록", "Stages"),
    "topic": ("토픽", "Topic"),
    "records": ("건수", "Records"),
    "age": ("마지막 기록", "Last record"),
    "ago": ("{s}초 전", "{s} s ago"),
    "feed": ("시세 연결", "Feed"),
    "event": ("내용", "Event"),
    "disclaimer": (
        "투자 권유가 아닙니다. 예측은 틀릴 수 있고 수익을 약속하지 않습니다.",
        "Not investment advice. Forecasts can be wrong and no profit is promised.",
    ),
}


def word(key: str, language: Language, **values: object) -> str:
    """The words of `key`; `values` fill its places. Raises `KeyError` for an unknown key."""
    korean, english = WORDS[key]
    return (korean if language == "ko" else english).format(**values)
