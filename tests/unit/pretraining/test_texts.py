from radscale.pretraining.config import TextOptions
from radscale.pretraining.texts import label_text, report_text, training_rows, view_prefix

NAMES = {"ETT": "Endotracheal Tube", "CT": "Chest Tube"}


def test_texts_begin_with_the_view_position() -> None:
    assert view_prefix("AP", "frontal") == "x-ray chest anteroposterior"
    assert view_prefix("PA", "frontal") == "x-ray chest posteroanterior"
    assert view_prefix("", "lateral") == "x-ray chest lateral"
    assert view_prefix("", "") == "x-ray chest"


def test_impression_comes_before_findings_and_a_report_without_either_is_taken_whole() -> None:
    options = TextOptions()
    assert report_text({"findings": " F. ", "impression": "I.", "text": "all"}, options) == "I. F."
    assert report_text({"text": " all "}, options) == "all"
    assert report_text({}, options) == ""


def test_label_text_has_one_order() -> None:
    assert label_text({"CT", "ETT"}, NAMES) == label_text(["ETT", "CT"], NAMES) == "Endotracheal Tube, Chest Tube"


def test_report_rows_and_label_rows() -> None:
    rows = training_rows(["R1", "", "R1"], ["A", "A", ""], ["p", "p", "q"], identical_texts_are_positives=False)
    assert rows.text == ["p R1", "q R1", "p A", "p A"]
    assert rows.image.tolist() == [0, 2, 0, 1]
    assert rows.label.tolist() == [0, 0, 1, 1]  # reports are pairs of their own; equal label texts are one class


def test_identical_reports_can_be_positives() -> None:
    rows = training_rows(["R", "R", "S"], ["", "", ""], ["p", "p", "p"], identical_texts_are_positives=True)
    assert rows.label.tolist() == [1, 1, 2]
