"""What several modules of tests of the SQLite journal share."""

import pytest

from btfeed.journal.sqlite import appender


@pytest.fixture(params=[pytest.param("native", marks=pytest.mark.native), "plain"])
def appending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Posts are appended without Python, and by Python."""
    if request.param == "plain":
        monkeypatch.setattr(appender, "available", lambda: False)
    else:
        assert appender.available()
