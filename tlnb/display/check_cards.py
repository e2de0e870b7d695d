"""Cards of exercises: what is met, what is missing, a hint."""

from __future__ import annotations

from tlnb.display.html import GREEN, GREY, ORANGE, Raw, card, facts, line, note, safe, table
from tlnb.session.check_results import Check, Checks


def check_card(found: Check) -> str:
    """One exercise."""
    if not found.attempts:
        return card(
            f"Exercise {found.name}: not tried yet",
            line(found.title),
            note(f"%tl_check {found.name}"),
        )
    rows: list[tuple[str, object]] = [(_mark("✓", GREEN), what) for what in found.met]
    if found.passed:
        parts = [facts(rows), line(found.learned)] if found.learned else [facts(rows)]
        return card(f"Exercise {found.name}: passed. {found.title}", *parts)
    rows.append((_mark("○", ORANGE), Raw(f"<b>{safe(found.asked)}</b>: not yet")))
    parts = [facts(rows), line(f"Found: {found.missing}") if found.missing else Raw("")]
    parts += [line(f"Hint {number}: {hint}") for number, hint in enumerate(found.hints, 1)]
    if found.hints_left:
        parts.append(
            note(f"Check again without a change for {'another' if found.hints else 'a'} hint")
        )
    return card(f"Exercise {found.name}: not yet. {found.title}", *parts)


def checks_card(found: Checks) -> str:
    """All exercises."""
    rows = [[c.name, c.title, _state(c), c.attempts or "–"] for c in found.checks]
    passed = sum(c.passed for c in found.checks)
    return card(
        f"{passed} of {len(found.checks)} exercises passed",
        table(["exercise", "what it asks for", "state", "tries"], rows, left=3),
        note(
            "%tl_check NAME checks one; %tl_check --export FILE --learner NAME writes the results to a file"
        ),
    )


def _state(c: Check) -> Raw:
    if c.passed:
        return Raw(f"{_mark('✓', GREEN)} passed")
    return Raw(
        f"{_mark('○', ORANGE if c.attempts else GREY)} {safe('missing: ' + c.asked if c.attempts else 'not tried yet')}"
    )


def _mark(sign: str, colour: str) -> Raw:
    return Raw(f'<span style="color:{colour}">{sign}</span>')
