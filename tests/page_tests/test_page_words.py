import re
import string
from pathlib import Path
from typing import get_args

import pytest

from dashboard import feature_words
from dashboard.words import LANGUAGES, WORDS, code_word, word
from streams import messages as m
from streams.market.features import FEATURES

ROOM = Path(__file__).parents[2] / "dashboard"
HANGUL = re.compile("[가-힣]")


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("key", WORDS)
def test_both_languages_say_the_same(key: str) -> None:
    korean, english = WORDS[key]
    assert korean
    assert english
    assert places(korean) == places(english)
    assert not HANGUL.search(english)
    assert HANGUL.search(korean.replace("{", "")) or key == "won"
    for language in LANGUAGES:
        filled = word(key, language, **dict.fromkeys(places(korean), "7"))
        assert "{" not in filled


def test_every_word_is_used_and_every_used_word_exists() -> None:
    texts = [file.read_text() for file in ROOM.rglob("*.py") if file.name not in {"words.py", "feature_words.py"}]
    literals = set(re.findall(r'"([a-z_]+)"', "\n".join(texts)))
    groups = {"side", "purpose", "state", "kind", "topic", "refused"}
    plain = {key for key in WORDS if "." not in key}
    assert plain - literals == set()
    assert {key.partition(".")[0] for key in WORDS if "." in key} == groups
    called = set(re.findall(r'word\(\s*"([a-z_]+)"', "\n".join(texts)))
    assert called - plain - groups == set()


@pytest.mark.parametrize(
    ("group", "codes"),
    [
        ("side", get_args(m.Side)),
        ("purpose", get_args(m.Purpose)),
        ("kind", get_args(m.FeedEvent.__annotations__["kind"])),
        (
            "state",
            ("new", "sent", "accepted", "unknown", "rejected", "expired", "filling", "filled", "cancelled"),
        ),
    ],
)
def test_every_code_of_the_log_has_words(group: str, codes: tuple[str, ...]) -> None:
    assert {f"{group}.{code}" for code in codes} == {key for key in WORDS if key.startswith(f"{group}.")}


def test_every_topic_that_views_count_has_words() -> None:
    from consumers.views import TAILS  # noqa: PLC0415 - the list of another room, for this comparison alone

    assert {f"topic.{topic}" for topic in TAILS} == {key for key in WORDS if key.startswith("topic.")}


def test_every_word_of_the_executors_refusals_has_words_for_people() -> None:
    page = (ROOM.parent / "docs" / "messages.md").read_text(encoding="utf-8")
    told = page.partition("## Words: why the executor refuses")[2].partition("\n## ")[0]
    names = set(re.findall(r"^\| `([\w-]+)` \|", told, re.MULTILINE))
    assert len(names) > 20
    names |= {"insufficient_funds_bid", "insufficient_funds_ask"}  # the exchange's own
    assert {f"refused.{name}" for name in names} == {key for key in WORDS if key.startswith("refused.")}


def test_a_code_without_words_stands_for_itself() -> None:
    assert code_word("state", "brand-new", "ko") == "brand-new"
    assert feature_words.name_of("brand_new", "en") == "brand_new"
    with pytest.raises(KeyError):
        word("brand-new", "en")


def test_every_feature_has_words_and_no_basis_points() -> None:
    assert set(feature_words.NAMES) == {spec.name for spec in FEATURES}
    for korean, english in feature_words.NAMES.values():
        assert HANGUL.search(korean)
        assert not HANGUL.search(english)
        assert "bp" not in english
    assert feature_words.value_of("bp", 12.34, "ko") == "0.1234%"
    assert feature_words.value_of("s", 1.5, "ko") == "1.5초"
    assert feature_words.value_of("-1..1", -0.5, "en") == "-0.5"
    assert feature_words.value_of("s", None, "en") == "-"
    for shown in zip(*feature_words.NAMES.values(), strict=True):
        assert len(shown) == len(set(shown))
