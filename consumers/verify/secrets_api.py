"""People who ask the API in `verify secrets`: with its token, without, and with the token where it does not belong."""

from consumers.verify.api_client import ask
from consumers.verify.processes import wait_until
from consumers.verify.secrets_run import ACCOUNT, API_TOKEN, START_S, Stage


def ask_api(stage: Stage) -> None:
    """Every kind of answer once; what the API says is kept as said to people."""
    token = stage.canaries.plain(API_TOKEN)
    right = {"Authorization": f"Bearer {token}"}

    def is_there() -> bool:
        stage.running.children.require_alive()
        return ask(stage.home, "/health")[0] == 200

    wait_until(is_there, START_S, "the API")
    mistyped = {"account": ACCOUNT, "confirm": token}
    asked = (
        (200, ask(stage.home, "/halts", right)),
        (200, ask(stage.home, "/accounts", right)),
        (401, ask(stage.home, "/halts", {"Authorization": f"Basic {token}"})),
        (401, ask(stage.home, f"/halts?token={token}")),
        (404, ask(stage.home, f"/{token}", right)),
        (200, ask(stage.home, "/halts/lift", right, mistyped)),  # nothing is halted
        (409, ask(stage.home, f"/accounts/{ACCOUNT}/resume", right, {"confirm": token})),
        (422, ask(stage.home, "/halts/lift", right, {**mistyped, "further": token})),
        (404, ask(stage.home, "/halts/lift/", right, mistyped)),
    )
    for number, (expected, (status, text)) in enumerate(asked):
        stage.happened.said.append(text)
        stage.happened.count("questions to the API")
        stage.happened.require(f"question {number} to the API was answered with {status}", is_so=status == expected)
