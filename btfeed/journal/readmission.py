"""Whether a rejected post that is retried is valid now, for all journals.

One that is not stays a dead letter as it was: of its cause, and of the time when it was received.
"""

from btfeed.journal.base import DeadLetter
from btfeed.posts import admission
from btfeed.posts.post import PostRefused


def why_not(letter: DeadLetter, max_occurrences: int) -> str | None:
    """The reason that the letter has from now on; None if its post is valid. The body of a broken gzip is kept as it came:
    it is still that, whatever it decodes to."""
    try:
        admission.admit(letter.body, max_occurrences)
    except PostRefused as error:
        return letter.reason if letter.cause == "bad_gzip" else f"{letter.cause}: {error}"
    return None
