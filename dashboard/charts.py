"""What all charts share. Called by the panels."""

from typing import Any

QUIET = {"displayModeBar": False, "scrollZoom": False}
HEIGHT = 320


def layout_of(subject: str) -> dict[str, Any]:
    """The layout of a small chart; what the reader zoomed stays while `subject` does."""
    return {
        "height": HEIGHT,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "legend": {"orientation": "h", "y": 1.15, "x": 0},
        "uirevision": subject,
        "hovermode": "x unified",
        "dragmode": False,
        "xaxis": {"tickformat": "%H:%M", "hoverformat": "%H:%M:%S", "nticks": 8},
    }
