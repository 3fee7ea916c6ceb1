import pytest

from radscale.errors import InputError
from radscale.probing.task_sets import FINDINGS, TASK_SETS, TUBES, display_name, resolve_tasks


def test_sets_have_the_papers_numbers_of_tasks():
    assert len(TASK_SETS["findings"]) == 20
    assert len(TASK_SETS["tubes"]) == 11
    assert resolve_tasks("tubes", []) == tuple(TUBES)


def test_sets_of_published_data():
    assert len(TASK_SETS["vindr_cxr"]) == 7
    assert len(TASK_SETS["nih"]) == 14
    assert TASK_SETS["ranzcr_tubes"] == ("SGC", "CVC", "ETT", "NGT")
    assert len(TASK_SETS["ranzcr_placement"]) == 11


def test_keys_are_those_that_extraction_writes():
    from radscale.extraction import ontology

    assert set(FINDINGS) == {*ontology.FINDINGS, "no_finding"}
    assert set(TUBES) == {*ontology.TUBES, "NT"}


def test_all_means_every_task_of_the_label_table():
    assert resolve_tasks("all", ["viral", "bacterial", "viral"]) == ("bacterial", "viral")


def test_names_for_people():
    assert display_name("MD") == "Mediastinal drain (MD)"
    assert display_name("bacterial_pneumonia") == "Bacterial pneumonia"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("finding", "not one of findings, tubes, vindr_cxr, nih, ranzcr_tubes, ranzcr_placement, all"),
        ((), "empty"),
        (("viral", "viral"), "twice"),
        (("virral",), "did you mean 'viral'"),
        (("hernia",), "it has normal, viral"),
    ],
)
def test_refuses_what_it_does_not_know(tasks, message):
    with pytest.raises(InputError, match=message):
        resolve_tasks(tasks, ["normal", "viral"])
