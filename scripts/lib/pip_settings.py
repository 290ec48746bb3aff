"""Writes one pip.conf for the image builds from this machine's pip settings; nothing when there are none.

A build sees neither this machine's files nor its loopback, so what points there is left out: certificates (they
come as a secret of their own), local wheel folders and file:// indexes.
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path

# What decides where packages come from; everything else in a pip.conf is taste.
KEYS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "proxy",
    "timeout",
    "retries",
    "no-index",
)
LOCAL = ("file:", "/", ".", "~")


def config_files(environ: dict[str, str], home: Path) -> list[Path]:
    """pip's own files in pip's order: site-wide first, the named one last."""
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    files = [Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    return [*files, *([Path(named)] if named else [])]


def merged(files: list[Path], environ: dict[str, str]) -> dict[str, str]:
    """The settings that matter, later files over earlier ones, PIP_* variables over all."""
    found: dict[str, str] = {}
    for file in files:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(file, encoding="utf-8")
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update({key: value for key, value in parser.items(section) if key in KEYS})
    for key in KEYS:
        value = environ.get("PIP_" + key.upper().replace("-", "_"))
        if value:
            found[key] = value
    return found


def for_a_build(settings: dict[str, str]) -> dict[str, str]:
    """The same settings without the words that point into this machine."""
    kept: dict[str, str] = {}
    for key, value in settings.items():
        words = [word for word in value.split() if not word.startswith(LOCAL)]
        if words:
            kept[key] = "\n".join(words)
    return kept


def main() -> None:
    """Usage: pip_settings.py OUT. OUT is made with mode 0600, since an index-url may hold a password."""
    settings = for_a_build(merged(config_files(dict(os.environ), Path.home()), dict(os.environ)))
    out = Path(sys.argv[1])
    out.unlink(missing_ok=True)
    if not settings:
        return
    parser = configparser.ConfigParser(interpolation=None)
    parser["global"] = {key: value.replace("\n", "\n    ") for key, value in settings.items()}
    with open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        parser.write(file)


if __name__ == "__main__":
    main()
