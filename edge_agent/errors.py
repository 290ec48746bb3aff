"""What ends an agent, with the exit code that says whose fault it was."""

from __future__ import annotations

EXIT_OK = 0
EXIT_CONFIGURATION = 2  # agent.yaml or what it points to: whoever wrote it
EXIT_ENVIRONMENT = 3  # broker, gate, disk


class AgentError(Exception):
    """Ends the agent with a message for whoever started it."""

    code = EXIT_ENVIRONMENT


class ConfigurationError(AgentError):
    code = EXIT_CONFIGURATION


class BrokerRefused(AgentError):
    """The broker is there and does not want us."""
