"""What a person reads in the terminal besides results."""

import warnings

import radscale.cli


def test_what_we_warn_of_is_one_line_without_the_place_in_the_code(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", radscale.cli._show_warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn_explicit("3 of its 5 ids [x] are unknown", UserWarning, radscale.cli.__file__, 1)
        warnings.warn_explicit("old name", DeprecationWarning, "/elsewhere/library.py", 7)
    ours, theirs = capsys.readouterr().err.splitlines()[:2]
    assert ours == "note: 3 of its 5 ids [x] are unknown"
    assert theirs.startswith("/elsewhere/library.py:7: DeprecationWarning: old name")
