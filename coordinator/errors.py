"""What ends a coordinator from outside: neither an agent's fault nor a bug of ours. Exit code 3."""

from __future__ import annotations

EXIT_OK, EXIT_ENVIRONMENT, EXIT_TERMINATED = 0, 3, 143


class EnvironmentFault(Exception):
    """`what` is wrong, what was `awaited`, and what to do `next`."""

    def __init__(self, what: str, *, awaited: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.awaited, self.hint = what, awaited, hint

    def text(self) -> str:
        lines = [f"coordinator: {self.what}"]
        if self.awaited:
            lines.append(f"  awaited: {self.awaited}")
        if self.hint:
            lines.append(f"  next: {self.hint}")
        return "\n".join(lines)
