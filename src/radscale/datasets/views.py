"""Words for the view of a chest X-ray, in the style of MedImageInsight's texts."""

VIEW_WORDS = {"AP": "anteroposterior", "PA": "posteroanterior", "LATERAL": "lateral"}


def view_word(view_position: str, view: str) -> str:
    """`anteroposterior`, `posteroanterior` or `lateral`; `frontal` if no more is known; empty if nothing is."""
    return VIEW_WORDS.get(view_position) or (view if view in ("frontal", "lateral") else "")
