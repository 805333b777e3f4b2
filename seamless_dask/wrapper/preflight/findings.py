"""What a look at this machine has found."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler_ext.view.phrases import count

from ..exit_codes import ExitCode


@dataclass
class Findings:
    """Sentences; each names a field, its value, and what is allowed."""

    #: What prevents a start, with the exit code that it would have.
    problems: list[tuple[ExitCode, str]] = field(default_factory=list)
    #: What may be a mistake.
    warnings: list[str] = field(default_factory=list)
    #: What was learned, such as answers of the batch system.
    facts: list[str] = field(default_factory=list)

    def problem(self, sentence: str, code: ExitCode = ExitCode.START_FAILED) -> None:
        """Add something that prevents a start."""
        self.problems.append((code, sentence))

    def report(self) -> str:
        """All sentences, the worst at the end, where a terminal shows them."""
        parts = [_listed("Found", self.facts)] if self.facts else []
        if self.warnings:
            number = count(len(self.warnings), "warning")
            parts.append(_listed(f"{number}, no obstacle", self.warnings))
        sentences = [sentence for _, sentence in self.problems]
        if sentences:
            number = count(len(sentences), "problem")
            parts.append(_listed(f"{number} to solve before a start", sentences))
        else:
            parts.append("Nothing was found that would prevent a start.")
        return "\n\n".join(parts)

    def exit_code(self) -> ExitCode:
        """0, or the code that a start would end with."""
        return min((code for code, _ in self.problems), default=ExitCode.CLEAN)


def _listed(heading: str, sentences: list[str]) -> str:
    return "\n".join([f"{heading}:", *(f"- {sentence}" for sentence in sentences)])
