"""How many examples a property gets: so many usually, as many as the profile says in a long run."""

from hypothesis import settings

_USUAL = settings.get_profile("usual").max_examples


def examples(usual: int) -> int:
    most: int = settings.default.max_examples
    return usual if most == _USUAL else max(usual, most)
