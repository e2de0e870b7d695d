"""The results of checking exercises."""

from __future__ import annotations

from dataclasses import dataclass

from tlnb.core.runtime.errors import OneLine


@dataclass(frozen=True, kw_only=True)
class Check(OneLine):
    """The result of checking an exercise."""

    name: str
    title: str
    passed: bool
    met: tuple[str, ...] = ()  # the steps that passed, in order
    asked: str = ""  # the first step that did not pass
    missing: str = ""  # what was found instead
    hints: tuple[str, ...] = ()  # shown so far
    hints_left: int = 0
    learned: str = ""  # shown once the exercise is passed
    attempts: int = 0

    def __repr__(self) -> str:
        if not self.attempts:
            return f"Check {self.name}: not tried yet ({self.title})"
        if self.passed:
            return f"Check {self.name}: passed. {self.learned}".rstrip()
        found = f"; found: {self.missing}" if self.missing else ""
        hint = f"; hint: {self.hints[-1]}" if self.hints else ""
        return f"Check {self.name}: not yet; missing: {self.asked}{found}{hint}"


@dataclass(frozen=True)
class Checks(OneLine):
    """The learner's results of all exercises."""

    checks: tuple[Check, ...]

    def __repr__(self) -> str:
        return (
            f"Checks: {sum(c.passed for c in self.checks)} of {len(self.checks)} exercises passed"
        )
