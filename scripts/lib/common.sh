# shellcheck shell=bash
# Shared by scripts/setup and scripts/lock: plain lines on the terminal, times, bounded waits.

EXIT_ENVIRONMENT=3

# Prefix of every system path that the daemon logic touches; the tests point it at a fake tree.
EDGERIG_SYSROOT="${EDGERIG_SYSROOT:-}"

# One plain line of progress.
say() { printf 'setup: %s\n' "$*"; }

# What is wrong, and what to do next, one argument per line; then exit code 3 (environment).
fail_environment() {
    local line
    for line in "$@"; do
        printf 'setup: %s\n' "$line" >&2
    done
    exit "$EXIT_ENVIRONMENT"
}

# Wall time in milliseconds. EPOCHREALTIME has six digits after the point or, in some locales, comma; the bash 3.2
# of macOS lacks it.
now_ms() {
    local now=${EPOCHREALTIME:-$(date +%s).000000}
    now=${now/[.,]/}
    printf '%s' "${now%???}"
}

# seconds_since START_MS: "3.2 s"
seconds_since() {
    local elapsed_ms=$(($(now_ms) - $1))
    printf '%d.%d s' $((elapsed_ms / 1000)) $((elapsed_ms % 1000 / 100))
}

# wait_until SECONDS COMMAND...: polls twice a second; 1 when the bound has passed.
wait_until() {
    local deadline_ms=$(($(now_ms) + $1 * 1000))
    shift
    until "$@"; do
        (($(now_ms) < deadline_ms)) || return 1
        sleep 0.5
    done
}

# timeout_or_not SECONDS COMMAND...: bounded where the machine has timeout (macOS has none).
timeout_or_not() {
    if have timeout; then timeout "$@"; else shift; "$@"; fi
}

have() { command -v "$1" >/dev/null 2>&1; }

# sha256_short: the first 12 hex digits of standard input's sha256 (macOS has no sha256sum).
sha256_short() {
    if have sha256sum; then sha256sum; else shasum -a 256; fi | cut -c1-12
}

# Runs a command quietly; its output is shown only when it fails, so that a log line is a finding.
quietly() {
    local log rc=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || rc=$?
    if ((rc != 0)); then
        printf 'setup: this failed with exit code %d: %s\n' "$rc" "$*" >&2
        tail -n 30 "$log" >&2
    fi
    rm -f "$log"
    return "$rc"
}
