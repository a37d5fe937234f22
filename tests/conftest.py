"""What was skipped, and why, in one line at the end of all tests."""

from collections import Counter

import pytest


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Each reason once, with the number of tests; it says how to get what is missing."""
    skipped = (report.longrepr for report in terminalreporter.stats.get("skipped", ()))
    reasons = Counter(found[2].removeprefix("Skipped: ") for found in skipped if isinstance(found, tuple))
    if reasons:
        terminalreporter.write_line("skipped: " + "; ".join(f"{count}: {why}" for why, count in reasons.items()))
