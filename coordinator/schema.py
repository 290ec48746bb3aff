"""The tables of the journal. A change of any of them is a new JOURNAL_SCHEMA."""

JOURNAL_SCHEMA = 2

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, version INTEGER NOT NULL, cohort TEXT NOT NULL, target INTEGER NOT NULL,
    quorum INTEGER NOT NULL, deadline_s REAL NOT NULL, extensions INTEGER NOT NULL, closed INTEGER NOT NULL DEFAULT 0
) STRICT;

-- state: open until the task ends; what lies between is in `updates` or with the agent.
CREATE TABLE tasks (
    task TEXT PRIMARY KEY, agent TEXT NOT NULL, round INTEGER NOT NULL, version INTEGER NOT NULL,
    seed INTEGER NOT NULL, deadline_s REAL NOT NULL, state TEXT NOT NULL DEFAULT 'open',
    reason TEXT NOT NULL DEFAULT '', number INTEGER NOT NULL UNIQUE
) STRICT;

-- At most one update per (agent, task), and one at each place of the order.
-- payload: NULL once it was let go (journal_bytes_max).
CREATE TABLE updates (
    task TEXT PRIMARY KEY REFERENCES tasks (task), agent TEXT NOT NULL, sha256 TEXT NOT NULL, samples INTEGER NOT NULL,
    position INTEGER NOT NULL UNIQUE, report TEXT NOT NULL, defect TEXT NOT NULL, bytes INTEGER NOT NULL, payload BLOB,
    UNIQUE (agent, task)
) STRICT;

CREATE TABLE versions (
    version INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, master_sha256 TEXT NOT NULL,
    state_sha256 TEXT NOT NULL, round INTEGER NOT NULL, server_lr REAL NOT NULL, created REAL NOT NULL,
    accuracy REAL, loss REAL
) STRICT;

-- position: the order of accumulation. A task can be merged once in a run.
-- samples: n, as capped; factor: s, the damping.
CREATE TABLE merges (
    version INTEGER NOT NULL REFERENCES versions (version), position INTEGER NOT NULL,
    task TEXT NOT NULL UNIQUE REFERENCES updates (task), samples INTEGER NOT NULL, factor REAL NOT NULL,
    PRIMARY KEY (version, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE outcomes (
    task TEXT PRIMARY KEY REFERENCES tasks (task), outcome TEXT NOT NULL, reason TEXT NOT NULL, version INTEGER
) STRICT, WITHOUT ROWID;

-- state: what the server optimizer remembers at that version; its sha256 is the version's.
CREATE TABLE snapshots (
    version INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, master BLOB NOT NULL, state BLOB NOT NULL
) STRICT;

CREATE INDEX updates_kept ON updates (position, bytes) WHERE payload IS NOT NULL;

CREATE INDEX tasks_of_agents ON tasks (agent, number);
"""
