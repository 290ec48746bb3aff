"""The run's state over HTTP, for the host: `/status`, `/metrics`, `/healthz`. It reads only, and holds up nothing."""
