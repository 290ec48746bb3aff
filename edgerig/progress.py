"""Show a run while it goes on: a live picture on a terminal, plain lines elsewhere, JSON lines for programs.

Fed by the driver with the events of the merged history; no thread, no clock of its own, nothing it waits for.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from edgerig.lines import names_of, tell
from edgerig.live import Live, LiveDevice, apply, clean, make_live
from history import units
from history.collect import REPORT_NAME
from history.events import Event
from history.summary import Summary
from topology.plan import Plan

REFRESH_S = 0.25  # the driver polls as often; more would only cost the run its processor
LINES_BELOW = 14  # of the screen, for everything but the table of devices
_STYLES = {"good": "green", "bad": "red", "note": "dim", "plain": ""}
_PHASES = {
    "training": "blue",
    "uploading": "cyan",
    "fetching": "bright_blue",
    "done": "green",
    "dead": "bold red",
    "offline": "red",
    "restarting": "yellow",
}
_VERDICTS = {
    "pass": "bold green",
    "fail": "bold red",
    "invalid": "bold yellow",
    "interrupted": "bold magenta",
}
_BLOCKS = "▁▂▃▄▅▆▇█"
REASONS_MAX = 8


class Mode(StrEnum):
    auto = "auto"  # rich on a terminal, plain lines elsewhere
    rich = "rich"
    plain = "plain"
    json = "json"


class Progress:
    """`feed` every event, `tick` now and then, `close` with the summary. `console` is for tests."""

    def __init__(self, mode: Mode, plan: Plan, root: Path, *, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        if mode is Mode.auto:
            mode = (
                Mode.rich if self._console.is_terminal and not self._console.is_dumb_terminal else Mode.plain
            )
        self.mode, self._root = mode, root
        self.live = make_live(plan)
        self._now: float | None = None
        self._drawn: float | None = None
        self._screen: Screen | None = None
        self._last_waiting = ""

    def feed(self, event: Event) -> None:
        """An event of the run, in the order of the history."""
        if self.mode is Mode.json:
            self._json(_flat(event))
            return
        apply(self.live, event)
        self._now = max(self._now or 0.0, event.mono_s)
        line = tell(self.live, event)
        if line is None or (self.mode is Mode.rich and event.event in ("waiting", "agent_online")):
            return  # on the screen already
        if event.event == "waiting" and line[1].split(",")[0] == self._last_waiting:
            return
        self._last_waiting = line[1].split(",")[0] if event.event == "waiting" else self._last_waiting
        self._say(event.mono_s, *line)

    def tick(self, now: float) -> None:
        """`now` on the events' clock (monotonic seconds). Draws at most every REFRESH_S."""
        self._now = now
        if self.mode is not Mode.rich or (self._drawn is not None and now - self._drawn < REFRESH_S):
            return
        self._drawn = now
        picture = self.picture(now)
        if self._screen is None:
            self._screen = Screen(picture, console=self._console, auto_refresh=False, transient=True)
            self._screen.start()
        self._screen.update(picture, refresh=True)

    def close(self, summary: Summary) -> None:
        """The verdict and where the report is. After an error, too: the terminal is given back first."""
        self.stop()
        if self.mode is Mode.json:
            self._json(
                {"event": "summary", "summary": msgspec.to_builtins(summary), "report": self._report()}
            )
            return
        self._console.print()
        for line in final_lines(summary, self._report()):
            self._console.print(line)

    def stop(self) -> None:
        """Give the terminal back. Idempotent."""
        screen, self._screen = self._screen, None
        if screen is not None:
            screen.stop()

    # --- output -------------------------------------------------------------------------------------------------------

    def _say(self, at: float, style: str, line: str) -> None:
        since = at - (self.live.began if self.live.began is not None else at)
        self._console.print(Text.assemble((f"{since:7.1f} s  ", "dim"), (line, _STYLES[style])))

    def _json(self, value: object) -> None:
        # Past rich: a line of JSON must stay one line, however long.
        stream = self._console.file
        stream.write(msgspec.json.encode(value).decode() + "\n")
        stream.flush()

    def _report(self) -> str:
        path = self._root / REPORT_NAME
        try:
            relative = os.path.relpath(path)
        except (OSError, ValueError):
            return str(path)
        return str(path) if relative.startswith("..") else relative

    # --- the live picture ---------------------------------------------------------------------------------------------

    def picture(self, now: float) -> RenderableType:
        """What the terminal shows; never higher than it is."""
        live = self.live
        room = max(3, self._console.size.height - LINES_BELOW)
        parts: list[RenderableType] = [Text(), _headline(live, now), _learning(live)]
        if live.faults:
            parts.append(
                Text.assemble(
                    ("faults    ", "dim"), (clean(names_of(list(live.faults.values()))), "bold red")
                )
            )
        waiting = _waiting(live, now)
        if waiting is not None:
            parts.append(waiting)
        parts += [Text(), _table(live, now, room)]
        hidden = len(live.devices) - room
        if hidden > 0:
            parts.append(Text(f"and {hidden} more devices", "dim"))
        return Group(*parts)


def _flat(event: Event) -> dict[str, object]:
    """One object per event, fields as they are. A field named like the envelope's keeps its name with `_` in front."""
    head: dict[str, object] = {
        "node": event.node,
        "boot": event.boot,
        "seq": event.seq,
        "mono_s": event.mono_s,
        "wall_s": event.wall_s,
        "event": event.event,
    }
    return head | {f"_{key}" if key in head else key: value for key, value in event.fields.items()}


def sparkline(values: list[float], width: int = 40) -> str:
    """The last `width` values, 0 to 1."""
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round(min(max(value, 0.0), 1.0) * top)] for value in values[-width:])


def _headline(live: Live, now: float) -> Text:
    rounds = live.plan.training.rounds
    elapsed = units.seconds(round(now - (live.began if live.began is not None else now)))
    line = Text.assemble(
        (clean(live.plan.run), "bold"), (f"  {live.plan.runtime}  {elapsed}  ", "dim"), live.stage
    )
    if live.round:
        line.append(f"  round {live.round} of {rounds} ", "bold")
        done = live.round - (0 if live.stage in ("between rounds", "finished") else 1)
        filled = round(20 * min(done, rounds) / rounds) if rounds else 0
        line.append("━" * filled, "green").append("━" * (20 - filled), "dim")
    else:
        verified, all_ = live.verified
        if verified:
            line.append(f"  {verified} of {all_} verified", "bold")
    return line


def _learning(live: Live) -> Text:
    line = Text.assemble(("accuracy  ", "dim"))
    if live.accuracy:
        line.append(sparkline(live.accuracy), "green").append(
            f" {units.percent(live.accuracy[-1], 2)}", "bold"
        )
    else:
        line.append("not yet", "dim")
    line.append("   up ", "dim").append(units.size(live.bytes))
    if live.bytes and live.raw_bytes:
        line.append(f", {live.raw_bytes / live.bytes:.0f}× fewer than float32", "dim")
    if live.target:
        line.append("   updates ", "dim").append(f"{live.received} of {live.target}")
    if live.faults_healed:
        line.append("   healed ", "dim").append(f"{live.faults_healed}", "green")
    if live.lapses:
        line.append("   lapses ", "dim").append(f"{live.lapses}", "bold red")
    return line


def _waiting(live: Live, now: float) -> Text | None:
    if not live.waiting:
        return None
    listed = [
        f"{w.agent} ({w.phase}{f' for {max(0.0, now - w.since):.0f} s' if w.since is not None else ''})"
        for w in live.waiting
    ]
    line = Text.assemble(("waiting   ", "dim"), clean(names_of(listed)))
    untils = [w.until for w in live.waiting if w.until is not None]
    if untils:
        line.append(f", at most {max(0.0, max(untils) - now):.0f} s more", "dim")
    return line


def _table(live: Live, now: float, room: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading, side in (("device", "left"), ("class", "left"), ("phase", "left"), ("since", "right")):
        table.add_column(heading, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for heading in ("merged", "up", "link", "CPU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for device in _chosen(live, room):
        since = "" if device.since is None else f"{max(0.0, now - device.since):.0f} s"
        phase = Text(clean(device.phase), _PHASES.get(device.phase, "dim"))
        counts = str(device.merged), units.size(device.bytes)
        table.add_row(
            device.name, device.group, phase, since, *counts, _sign(device.link_ok), _sign(device.cpu_ok)
        )
    return table


def _chosen(live: Live, room: int) -> list[LiveDevice]:
    """All that fit; of more, those in trouble first."""
    devices = list(live.devices.values())
    if len(devices) <= room:
        return devices
    trouble = ("dead", "offline", "restarting")
    return sorted(devices, key=lambda device: device.phase not in trouble)[:room]


def _sign(ok: bool | None) -> Text:
    return Text("·", "dim") if ok is None else Text("✓", "green") if ok else Text("✗", "bold red")


# --- the end ----------------------------------------------------------------------------------------------------------


def _reached(summary: Summary) -> list[tuple[str, str]]:
    """What the model came to, in the terms of its loss."""
    if summary.final_accuracy is None and summary.final_loss is not None:
        return [("loss", units.plain(summary.final_loss))]
    more = summary.final_metrics.get("perplexity")
    perplexity = "" if more is None else f", perplexity {units.plain(more)}"
    return [("accuracy", units.percent(summary.final_accuracy, 2) + perplexity)]


def final_lines(summary: Summary, report: str) -> list[Text]:
    """Verdict, what speaks against it, expectations, key figures, the report."""
    lines = [Text.assemble((summary.verdict.upper(), _VERDICTS[summary.verdict]), f"  {clean(summary.run)}")]
    lines += [Text(f"  {clean(reason)}", "red") for reason in summary.reasons[:REASONS_MAX]]
    for item in summary.expectations:
        observed = "could not be judged" if item.observed is None else f"{item.observed:.6g}"
        sign = _sign(bool(item.held))
        lines.append(
            Text("  ").append_text(sign).append(f" {item.metric} {item.op} {item.value:g}: {observed}")
        )
    lost = "unknown" if summary.updates_lost is None else str(summary.updates_lost)
    ratio = "" if summary.uplink_ratio is None else f", {summary.uplink_ratio:.0f} times fewer than float32"
    figures = [
        *_reached(summary),
        ("rounds", f"{summary.rounds} in {units.seconds(summary.wall_s)}"),
        ("bytes up", units.size(summary.uplink_bytes) + ratio),
        (
            "updates",
            f"{summary.updates_merged} merged, {sum(summary.updates_discarded.values())} discarded, {lost} lost",
        ),
        (
            "faults",
            f"{sum(f.applied for f in summary.faults)} applied, {sum(f.healed for f in summary.faults)} healed",
        ),
        ("lapses", str(len(summary.lapses))),
        ("report", clean(report)),
    ]
    return lines + [Text.assemble((f"  {name:<10}", "dim"), value) for name, value in figures]
