import pytest

from consumers.verify.archive import SPECIAL, trials_of, verify_archive
from consumers.verify.archive_trials import POINTS
from consumers.verify.archive_world import judge, log_of, records_of_seed
from infra.errors import BadSettings
from infra.store import FolderStore


def test_the_trials_are_two_hundred_with_every_point_on_folder_and_bucket():
    trials = trials_of(200)
    assert len(trials) == 200
    assert {name for name, *_ in trials} == {*SPECIAL, *POINTS, "any-time"}
    assert sum(is_bucket for *_, is_bucket in trials) > 70


@pytest.mark.slow
def test_the_short_form_passes_and_finds_what_is_planted():
    found = verify_archive(quick=True)
    assert found["passed"], found
    figures = found["figures"]
    assert isinstance(figures, dict)
    assert figures["kills"] >= 5
    assert figures["control: planted losses found"] == 2


def test_an_unknown_trial_is_refused():
    with pytest.raises(BadSettings, match="bucket-gone"):
        verify_archive(only="nothing")


def test_the_judge_sees_a_record_that_is_missing_twice_or_another(world, tmp_path):
    world.log = log_of(records := records_of_seed(3, 80), {})
    archive = world.open(topics=["orderbooks", "trades", "controls", "order-intents", "account-states"])
    world.archived(archive)
    assert judge(world.local, records, {}, is_closed=False).is_exact
    assert judge(world.local, records[:-1], {}, is_closed=False).other == 1
    one = records[0]
    changed = [one._replace(value=one.value + b" "), *records[1:]]
    assert judge(world.local, changed, {}, is_closed=False).other == 1
    part = world.parts()[0]
    FolderStore(tmp_path / "archive").delete(part.name)
    assert judge(world.local, records, {}, is_closed=False).missing > 0
