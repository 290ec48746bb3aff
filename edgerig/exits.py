"""Exit codes of `edgerig`, documented in README.md and in `edgerig --help`."""

OK = 0
FAILED = 1  # an expectation did not hold, or could not be judged
CONFIGURATION = 2
ENVIRONMENT = 3
INTERRUPTED = 4
