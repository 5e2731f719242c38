"""Says within seconds, in one sentence, whether an address outside can be reached.

Called by the command line before a run that needs it; decides nothing.
"""

import threading
import urllib.error
import urllib.request


def why_unreachable(name: str, url: str, timeout_s: float = 5.0) -> str:
    """One sentence why `url` does not answer, empty where it does (with whatever status)."""
    found: list[str] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=timeout_s):  # noqa: S310 - our own address
                found.append("")
        except urllib.error.HTTPError as error:
            error.close()
            found.append("")  # it answered
        except OSError as error:
            found.append(str(getattr(error, "reason", error) or type(error).__name__))

    asking = threading.Thread(target=ask, daemon=True)  # looking a name up cannot be given a limit
    asking.start()
    asking.join(timeout_s + 1)
    reason = found[0] if found else f"no answer within {timeout_s:.0f} s"
    return f"{name} cannot be reached from this machine ({reason})." if reason else ""
