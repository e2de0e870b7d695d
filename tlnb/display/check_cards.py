"""Cards of exercises: the steps passed, the one that is missing, and hints."""

from __future__ import annotations

from tlnb.display.html import Raw, card, facts, line, note, safe, table
from tlnb.session.check_results import Check, Checks


def check_card(check: Check) -> str:
    """One exercise."""
    if not check.attempts:
        return card(
            f"Exercise {check.name}: not tried yet",
            line(check.title),
            note(f"%tl_check {check.name}"),
        )
    rows: list[tuple[str, object]] = [("✓", what) for what in check.met]
    if check.passed:
        parts = [facts(rows), line(check.learned)] if check.learned else [facts(rows)]
        return card(f"Exercise {check.name}: passed. {check.title}", *parts)
    rows.append(("○", Raw(f"<b>{safe(check.asked)}</b>: not yet")))
    parts = [facts(rows), line(f"Found: {check.missing}") if check.missing else Raw("")]
    parts += [line(f"Hint {number}: {hint}") for number, hint in enumerate(check.hints, 1)]
    if check.hints_left:
        parts.append(
            note(
                f"Check again without changing anything for {'another' if check.hints else 'a'} hint"
            )
        )
    return card(f"Exercise {check.name}: not yet. {check.title}", *parts)


def checks_card(checks: Checks) -> str:
    """All exercises."""
    rows = [[c.name, c.title, _state(c), c.attempts or "–"] for c in checks.checks]
    passed = sum(c.passed for c in checks.checks)
    return card(
        f"{passed} of {len(checks.checks)} exercises passed",
        table(["exercise", "what it asks for", "state", "tries"], rows, left=3),
        note(
            "%tl_check NAME checks one; %tl_check --export FILE --learner NAME writes the results to a file"
        ),
    )


def _state(c: Check) -> str:
    if c.passed:
        return "✓ passed"
    return f"○ missing: {c.asked}" if c.attempts else "○ not tried yet"
