import ast
import functools
import json
import re
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

import observator
from consumers.execute.keys_words import KEY_WORDS
from consumers.trade.reasons import WORDS
from infra.settings import Settings
from streams import messages, topics
from streams.market import features

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "README.ko.md", ROOT / "CHANGELOG.md", *DOCS]

NAMED = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*):([A-Za-z_]+(?:\.[A-Za-z_]+)*)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\(([^)#]+)\)")
CODE = re.compile(r"`([^`]+)`")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, heads left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [i for i, row in enumerate(cells) if all(re.fullmatch("-+", cell) for cell in row)]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def defined_in(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, ast.Assign):
            found.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
    return found


def stands(module: str, qualname: str) -> bool:
    """Whether the module's own source defines the name; nothing is imported."""
    place = ROOT / module.replace(".", "/")
    file = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
    if not file.exists():
        return False
    body = tree(file).body
    for part in qualname.split("."):
        node = defined_in(body).get(part)
        if node is None:
            return False
        body = node.body if isinstance(node, ast.ClassDef) else []
    return True


def constant(file: str, name: str) -> object:
    """A module's constant of texts, without importing what compiles."""
    names = defined_in(tree(ROOT / file).body)

    def value(node: ast.expr) -> object:
        if isinstance(node, ast.Tuple):
            return tuple(value(item) for item in node.elts)
        return value(names[node.id].value) if isinstance(node, ast.Name) else ast.literal_eval(node)

    return value(names[name].value)


# --- names, tests, links ------------------------------------------------------------------------------------------


def test_names_of_functions_are_those_of_the_code():
    named = {(page.name, *found) for page in PAGES for found in NAMED.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 60
    assert [one for one in named if not stands(*one[1:])] == []


def test_a_wrong_name_would_be_found():
    assert stands("streams.market.bins", "HalfBins.take_book")
    assert not stands("streams.market.bins", "HalfBins.take_nothing")
    assert not stands("streams.market.nothing", "HalfBins")


def test_every_room_and_process_is_told():
    page = text_of("docs/architecture.md")
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}/`" not in page} == set()
    assert set(observator.PROCESSES) == {
        "sandbox", "feed", "streams", "streams-faust", "predict", "trade", "execute", "views", "archive", "nightly",
        "api",
    }, "a new process: say in architecture.md what it does"  # fmt: skip


def test_named_tests_exist():
    named = {found for page in PAGES for found in TEST.findall(page.read_text(encoding="utf-8"))}
    assert named
    missing = [
        one for one in named if not (ROOT / one[0]).exists() or one[1] not in defined_in(tree(ROOT / one[0]).body)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_nothing_private_stands_in_a_page(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert re.findall(r"https?://(?!127\.0\.0\.1|localhost)\S+", text) == []
    assert re.findall(r"(?<![\w.])/(?:home|work|root|Users|tmp)/\S*", text) == []


def test_every_page_is_reached_from_the_readmes():
    for name in ("README.md", "README.ko.md"):
        linked = {(ROOT / link).name for link in LINK.findall(text_of(name))}
        assert {page.name for page in DOCS} - linked == set(), name


def test_the_readmes_begin_with_what_people_must_know():
    for name, words in {
        "README.md": ("Not investment advice", "paper only", "sandbox exchange"),
        "README.ko.md": ("투자 조언이 아닙니다", "모의 투자만", "샌드박스 거래소"),
    }.items():
        begin = text_of(name)[:700]
        assert [word for word in words if word not in begin] == []


def test_both_readmes_give_the_same_commands():
    def commands(name: str) -> list[str]:
        blocks = re.findall(r"```sh\n(.*?)```", text_of(name), re.DOTALL)
        return [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]

    assert commands("README.md") == commands("README.ko.md")
    verbs = {line.split()[1] for line in commands("README.md") if line.startswith(".venv/bin/observator")}
    assert verbs - set(verbs_of_the_program()) == set()


# --- messages and topics ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", messages.ALL, ids=lambda kind: kind.__name__)
def test_every_message_is_told_with_its_tag_its_topics_its_hashed_fields_and_its_fields(kind):
    told = section(text_of("docs/messages.md"), kind.__name__)
    tag, *places = CODE.findall(re.match(r"\s*Tag (.*?)\. ", told)[1])
    assert tag == messages.tag_of(kind)
    assert places == [topic.name for topic in topics.TOPICS.values() if kind in topic.kinds]
    hashed = re.search(r"^Hashed: (.*)$", told, re.MULTILINE)[1]
    assert tuple(CODE.findall(hashed)) == kind.hashed
    assert [CODE.findall(row[0])[0] for row in rows(told)] == list(kind.__struct_fields__)
    assert all(row[1] for row in rows(told))


def test_every_topic_is_told_with_partitions_key_and_retention():
    told = {CODE.findall(row[0])[0]: row[1:] for row in rows(section(text_of("docs/messages.md"), "Topics"))}
    assert list(told) == list(topics.TOPICS)
    for topic in topics.TOPICS.values():
        kept = "newest" if topic.is_compact else "all" if topic.days is None else f"{topic.days} days"
        kept += ", flushed" if topic.is_flushed else ""
        partitions, key, retention, kinds = told[topic.name]
        assert (partitions, key, retention) == (str(topic.partitions), topic.key, kept), topic.name
        assert CODE.findall(kinds) == [kind.__name__ for kind in topic.kinds]


def test_no_message_is_told_that_there_is_not():
    headings = re.findall(r"^## (.*)$", text_of("docs/messages.md"), re.MULTILINE)
    others = [one for one in headings if one != "Topics" and not one.startswith("Words:")]
    assert others == [kind.__name__ for kind in messages.ALL]


def words_under(heading: str) -> list[str]:
    return [CODE.findall(row[0])[0] for row in rows(section(text_of("docs/messages.md"), heading))]


def test_every_word_of_a_refusal_is_told():
    told = {
        CODE.findall(row[0])[0]: row[1]
        for row in rows(section(text_of("docs/messages.md"), "Words: why nothing was bought"))
    }
    assert told == {str(reason): english for reason, (english, _) in WORDS.items()}
    licences = [constant("models/forecast/registry.py", name) for name in ("SYNTHETIC_MODEL", "NO_LICENCE")]
    assert words_under("Words: why a signal is not licensed") == licences
    refusals = constant("consumers/predict_stage.py", "REFUSALS")
    assert tuple(words_under("Words: why a row gives no signal")) == refusals


def test_every_word_of_a_request_is_told():
    from consumers.execute.requests.words import WORDS as OF_REQUESTS  # noqa: PLC0415 - one test of many needs it

    page = section(text_of("docs/messages.md"), "Words: what became of a request")
    assert {CODE.findall(row[0])[0]: row[1] for row in rows(page)} == {
        word: english for word, (english, _) in OF_REQUESTS.items()
    }


def test_every_word_about_a_key_is_told():
    told = {
        CODE.findall(row[0])[0]: row[1]
        for row in rows(section(text_of("docs/messages.md"), "Words: why a key is not used"))
    }
    assert told == {str(reason): english for reason, (english, _) in KEY_WORDS.items()}


def test_the_executors_own_words_are_told():
    used: set[str] = set()
    for name, place in {"desk": 1, "limits": 0, "gateway": 0}.items():
        for node in ast.walk(tree(ROOT / "consumers" / "execute" / f"{name}.py")):
            if not isinstance(node, ast.Call) or len(node.args) <= place:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            word = node.args[place]
            if called in {"_reject_unsent", "Refusal", "Refused"} and isinstance(word, ast.Constant):
                used.add(word.value)
    assert len(used) > 5
    assert used - set(words_under("Words: why the executor refuses")) == set()


# --- features, settings, commands ---------------------------------------------------------------------------------


def test_every_feature_is_told_in_order_with_unit_and_null_rule():
    page = text_of("docs/features-schema.md")
    assert f"Schema `{features.SCHEMA}`, version {features.VERSION}, {len(features.FEATURES)} entries" in page
    told = [(row[0], CODE.findall(row[1])[0], row[2], row[3], row[4]) for row in rows(page)]
    assert told == [
        (str(i), spec.name, spec.unit, spec.null or "-", spec.meaning) for i, spec in enumerate(features.FEATURES)
    ]


def settings_of(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            found |= settings_of(type(default), f"{prefix}{name}.")
        else:
            shown = {None: "none", "": '""', True: "true", False: "false"} if not isinstance(default, list) else {}
            is_plain = isinstance(default, list) or not (default is None or default == "" or isinstance(default, bool))
            found[prefix + name] = str(default) if is_plain else shown[default]
    return found


def test_every_setting_is_told_with_its_default():
    told = {CODE.findall(row[0])[0]: CODE.findall(row[1])[0] for row in rows(text_of("docs/settings.md"))}
    assert told == settings_of(Settings)
    assert all(row[2] for row in rows(text_of("docs/settings.md")))


def verbs_of_the_program() -> dict[str, list[str]]:
    """Verb to its options and arguments, hidden verbs left out."""
    found: dict[str, list[str]] = {}
    program = typer.main.get_command(observator.app)
    for name, command in program.commands.items():
        for inner, one in getattr(command, "commands", {"": command}).items():
            if one.hidden:
                continue
            params = [p.opts if p.param_type_name == "option" else [p.name.upper()] for p in one.params]
            found[f"{name} {inner}".strip()] = [opt for opts in params for opt in opts]
    return found


def test_every_verb_is_told_with_its_options():
    page = text_of("docs/commands.md")
    verbs = verbs_of_the_program()
    assert set(re.findall(r"^## observator (.*)$", page, re.MULTILINE)) == set(verbs)
    for verb, wanted in verbs.items():
        told = section(page, f"observator {verb}")
        options = told.split("| name |")[0]
        assert [one for row in rows(options) for one in CODE.findall(row[0])] == wanted, verb


@pytest.mark.parametrize(("verb", "known"), [("verify", observator.VERIFY), ("bench", observator.BENCH)])
def test_every_check_and_measurement_is_told(verb, known):
    told = section(text_of("docs/commands.md"), f"observator {verb}").split("| name |")[1]
    names = [CODE.findall(row[0])[0] for row in rows("| name |" + told)]
    assert names == list(known)
    assert [place for place in known.values() if not stands(*place.split(":"))] == []


def test_the_figures_name_commands_that_exist():
    known = {f"verify {name}" for name in observator.VERIFY} | {f"bench {name}" for name in observator.BENCH}
    named = {
        " ".join(found.split()[1:3])
        for found in CODE.findall(text_of("docs/benchmarks.md"))
        if found.startswith("observator ")
    }
    assert named == known


def test_the_sixty_rows_stand_with_a_state_and_what_is_there_has_its_test():
    told = rows(text_of("docs/features.md"))
    assert [row[0] for row in told] == [str(number) for number in range(1, 61)]
    assert {row[2] for row in told} == {"done", "part", "later"}
    assert [row[0] for row in told if bool(TEST.search(row[4])) != (row[2] != "later")] == []


def test_the_sandbox_page_names_every_fault():
    from producers.sandbox import faults  # noqa: PLC0415 - one test of many needs it

    page = text_of("docs/sandbox.md")
    assert [name for name in faults.NAMES if f"`{name}`" not in page] == []


def test_the_sandbox_page_tells_every_rate_limit():
    from infra.upbit.rates import PERMISSIONS, RATES  # noqa: PLC0415 - same

    page = text_of("docs/sandbox.md")
    told = {CODE.findall(row[0])[0]: (row[1], row[2], row[4]) for row in rows(section(page, "Limits"))}
    ways = {True: "whole seconds", False: "bucket"}
    assert told == {
        group: (str(rate.size), f"{rate.seconds:g} s", ways[rate.is_window]) for group, rate in RATES.items()
    }
    assert [name for name in PERMISSIONS if f"`{name}`" not in page] == []


def test_the_shown_settings_file_can_be_read():
    import tomllib  # noqa: PLC0415 - same

    for block in re.findall(r"```toml\n(.*?)```", text_of("docs/settings.md"), re.DOTALL):
        Settings.model_validate(tomllib.loads(block))
    assert json.loads(Settings().model_dump_json())["feed"]["market_count"] == 10
