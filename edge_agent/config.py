"""Reading `agent.yaml`: the same file in a container and on a Raspberry Pi."""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from edge_agent.errors import ConfigurationError
from topology.plan import AgentConfig

CONFIG_BYTES_MAX = 65_536
PASSWORD_BYTES_MAX = 1_024
LOG_LEVELS = ("debug", "info", "warning", "error")


def load_config(path: Path) -> AgentConfig:
    """Raises ConfigurationError that names the file, the field and what is allowed."""
    try:
        text = path.read_bytes()[:CONFIG_BYTES_MAX]
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        config = msgspec.convert(yaml.safe_load(text), AgentConfig)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is no YAML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if config.log_level not in LOG_LEVELS:
        raise ConfigurationError(
            f"{path}: log_level is {config.log_level!r}; allowed: {', '.join(LOG_LEVELS)}"
        )
    return _resolved(config, path.parent.resolve())


def _resolved(config: AgentConfig, folder: Path) -> AgentConfig:
    """Paths are relative to the file's own folder unless absolute."""

    def resolve(value: str) -> str:
        return str(folder / value) if value else ""

    return msgspec.structs.replace(
        config,
        password_file=resolve(config.password_file),
        ca_file=None if config.ca_file is None else resolve(config.ca_file),
        shard=resolve(config.shard),
        state=resolve(config.state),
        gate=resolve(config.gate),
        hook=resolve(config.hook),
        power=resolve(config.power),
    )


def read_password(config: AgentConfig) -> str:
    path = Path(config.password_file)
    try:
        with open(path, "rb") as file:
            password = file.read(PASSWORD_BYTES_MAX).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the password file {path}: {error}") from error
    if not password:
        raise ConfigurationError(f"the password file {path} is empty")
    return password
