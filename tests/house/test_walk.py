"""The way of the images' folder through a training stays short, and the table in the documentation is that way."""

import pytest

from docs import walk


@pytest.mark.slow
def test_the_folder_travels_a_short_way_and_the_page_shows_it() -> None:
    calls = walk.walk()
    assert ("dreamtune/data/subject.py", "load_subject") in calls
    assert len(calls) <= walk.MOST_CALLS
    assert len({module for module, _ in calls}) <= walk.MOST_MODULES
    assert walk.table(calls) in walk.PAGE.read_text(encoding="utf-8"), "stale: python -m docs.walk"
