"""An answer belongs to a question that was answered, and to no other."""

from __future__ import annotations

import pytest

from vla.offline.preferences import Answer, Moment, Pair, Preference, Status

PAIR = Pair(Moment(0, 3), Moment(2, 0), "open the drawer")


def test_what_failed_is_no_tie() -> None:
    assert Preference(PAIR, Status.OK, Answer.TIE).answer is Answer.TIE
    assert Preference(PAIR, Status.REFUSED, None).answer is None
    for status in (Status.REFUSED, Status.UNPARSABLE, Status.ERROR, Status.TIMEOUT):
        with pytest.raises(ValueError, match=f"status {status} with answer tie"):
            Preference(PAIR, status, Answer.TIE)
    with pytest.raises(ValueError, match="status ok with answer None"):
        Preference(PAIR, Status.OK, None)
