"""Why the exchange side refuses a request: the names, statuses and texts of `upbit-api.md` section 4.

Raised by the order checks and handlers, answered by `rest`. Names that the documentation does not give are marked.
"""


class OrderRefused(Exception):  # noqa: N818 - named by what happened
    """Answered as `{"error":{"name":...,"message":...}}`."""

    def __init__(self, name: str, text: str = "", status: int = 400) -> None:
        super().__init__(name)
        self.name = name
        self.text = text or TEXTS.get(name, name)
        self.status = STATUSES.get(name, status)


STATUSES = {
    "order_not_found": 404,
    "market_offline": 403,
    "out_of_scope": 403,
    "server_error": 500,
    "no_authorization_token": 401,
    "invalid_access_key": 401,
    "jwt_verification": 401,
    "invalid_query_payload": 401,
    "nonce_used": 401,
    "expired_access_key": 401,
    "no_authorization_ip": 401,
    "open_api_withdraw_locked": 403,
    "currency_not_found": 404,
    "pocket_not_found": 404,
    "deposit_not_found": 404,
    "withdraw_not_found": 404,
    "internal_server_error": 500,
}
TEXTS = {
    "validation_error": "올바르지 않은 값이 있습니다.",
    "notfoundmarket": "다음 마켓에 없는 종목입니다.",
    "create_bid_error": "주문 요청 정보가 올바르지 않습니다.",
    "create_ask_error": "주문 요청 정보가 올바르지 않습니다.",
    "insufficient_funds_bid": "주문 가능한 금액(KRW)이 부족합니다.",
    "insufficient_funds_ask": "주문 가능한 수량이 부족합니다.",
    "under_min_total_bid": "최소 주문 금액 이상으로 주문해 주세요.",
    "under_min_total_ask": "최소 주문 금액 이상으로 주문해 주세요.",
    "over_krw_funds_bid": "최대 주문 가능 금액 1000000000 KRW 보다 작은 주문을 입력해 주세요.",
    "over_krw_funds_ask": "최대 주문 가능 금액 1000000000 KRW 보다 작은 주문을 입력해 주세요.",
    "thirdparty_agreement_required": "BTC, USDT 마켓 거래에는 사전 동의가 필요합니다.",
    "invalid_funds": "주문 금액이 올바르지 않습니다.",  # name known from ccxt only
    "invalid_price_bid": "주문가격 단위를 잘못 입력하셨습니다. 확인 후 시도해주세요.",
    "invalid_price_ask": "주문가격 단위를 잘못 입력하셨습니다. 확인 후 시도해주세요.",
    "invalid_time_in_force": "주문조건을 다시 확인해 주세요.",
    "invalid_post_only": "post_only 주문에는 smp_type 을 사용할 수 없습니다.",
    "duplicated_identifier": "이미 사용된 identifier 입니다.",
    "invalid_parameter": "잘못된 파라미터",
    "bad_request": "잘못된 요청",
    "order_not_found": "주문을 찾지 못했습니다.",
    "market_offline": "시스템 점검 중입니다. 점검이 완료된 후에 다시 시도해주세요.",
    "QUERY_PARAMETER_NOT_SUPPORTED": "요청 본문은 지원하지 않습니다.",
    "volume_too_large": "주문 수량이 호가 잔량을 초과합니다.",  # name known from ccxt only
    "server_error": "서버 오류가 발생했습니다.",
    "internal_server_error": "서버 오류가 발생했습니다.",
    "withdraw_address_not_registered": "등록되지 않은 출금 주소입니다.",
    "open_api_withdraw_locked": "출금이 제한된 상태입니다.",
    "currency_not_found": "지원하지 않는 화폐입니다.",
    "pocket_not_found": "포켓을 찾지 못했습니다.",
    "deposit_not_found": "입금 내역을 찾지 못했습니다.",
    "withdraw_not_found": "출금 내역을 찾지 못했습니다.",
    "no_authorization_token": "토큰이 없습니다.",
    "invalid_access_key": "잘못된 엑세스 키입니다.",
    "expired_access_key": "API 키가 만료되었습니다.",
    "no_authorization_ip": "This is not a verified IP.",
    "jwt_verification": "Jwt 토큰 검증에 실패했습니다.",
    "invalid_query_payload": "Failed to verify the query of Jwt.",
    "nonce_used": "이미 요청한 nonce값이 다시 사용되었습니다.",
    "out_of_scope": "허용되지 않은 기능입니다.",
}
