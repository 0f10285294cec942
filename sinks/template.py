"""Templates such as `appmon.{category}`, for texts that depend on the business transaction: topics, indexes, event.type."""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import AfterValidator

from sinks.batch import Transaction


@dataclass(frozen=True, slots=True)
class Template:
    """A text with placeholders such as {name}: attributes of Transaction, or names that the caller of `fill` provides."""

    text: str

    def names(self) -> set[str]:
        """The placeholders in the text."""
        return set(re.findall(r"\{([^{}]*)\}", self.text))

    def fill(self, transaction: Transaction, **more: str) -> str:
        """The text with its placeholders replaced. `more` takes precedence over the transaction."""

        def value(match: re.Match[str]) -> str:
            return more[match[1]] if match[1] in more else str(getattr(transaction, match[1]))

        return re.sub(r"\{([^{}]*)\}", value, self.text)


def template(*placeholders: str) -> Any:
    """A pydantic validator for the text of a template with these placeholders."""

    def check(text: str) -> str:
        unknown = Template(text).names() - set(placeholders)
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in placeholders)
            raise ValueError(f"unknown placeholder {{{min(unknown)}}}; known are {known}")
        if set("{}") & set(re.sub(r"\{[^{}]*\}", "", text)):
            raise ValueError("a brace has no partner: write a placeholder like {name}")
        return text

    return AfterValidator(check)
