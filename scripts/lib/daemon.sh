# shellcheck shell=bash
# Finds a running Docker daemon, or starts the one of this machine; also after a hard kill.

# A first start unpacks nothing but creates the default bridge and its rules: 2 to 10 s on two busy cores.
DAEMON_START_WAIT_S="${EDGERIG_DAEMON_START_WAIT_S:-60}"
# One question to a healthy daemon takes milliseconds; a hung one must not hang the setup.
DAEMON_ANSWER_WAIT_S=10
DAEMON_LOG="${EDGERIG_DOCKERD_LOG:-/var/log/edgerig-dockerd.log}"

daemon_answers() {
    timeout_or_not "$DAEMON_ANSWER_WAIT_S" docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# process_is PID NAME: is that process alive, and is it the program of that name? A killed daemon stays a zombie
# where PID 1 reaps nobody, as in many containers; it is as dead as one that is gone.
process_is() {
    local stat
    [[ $1 =~ ^[0-9]+$ ]] || return 1
    stat=$(cat "$EDGERIG_SYSROOT/proc/$1/stat" 2>/dev/null) || return 1
    [[ $stat == "$1 ($2) "[^ZX]* ]]
}

# remove_stale_pid FILE NAME: after a hard kill the pid file stays, and once its number belongs to another
# process the daemon refuses to start ("pid file found"). A file that a live daemon owns is never touched.
remove_stale_pid() {
    local file="$EDGERIG_SYSROOT$1" pid
    [[ -f $file ]] || return 0
    pid=$(tr -d '[:space:]' <"$file")
    if process_is "$pid" "$2"; then
        return 0
    fi
    say "removing stale $1 (no $2 runs as ${pid:-no pid})"
    rm -f "$file"
}

remove_stale_pids() {
    remove_stale_pid /var/run/docker.pid dockerd
    remove_stale_pid /var/run/docker/containerd/containerd.pid containerd
}

# A daemon reached over DOCKER_HOST or a docker context is somebody else's to start.
daemon_is_local() {
    [[ -z ${DOCKER_HOST:-} || $DOCKER_HOST == unix:///var/run/docker.sock ]] || return 1
    [[ -z ${DOCKER_CONTEXT:-} || $DOCKER_CONTEXT == default ]]
}

has_systemd() { [[ -d $EDGERIG_SYSROOT/run/systemd/system ]]; }

# Detached from this shell's terminal, session and descriptors: it must outlive make, and must not hold a
# CI runner's pipes open.
start_dockerd_by_hand() {
    remove_stale_pids
    (
        ulimit -n 1048576 2>/dev/null || true
        setsid dockerd >>"$DAEMON_LOG" 2>&1 </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
    )
}

explain_dead_daemon() {
    if ! daemon_is_local; then
        fail_environment "the Docker daemon at ${DOCKER_HOST:-context ${DOCKER_CONTEXT:-?}} does not answer." \
            "Start it there, or unset DOCKER_HOST and DOCKER_CONTEXT, and run this again."
    fi
    if [[ $(uname -s) == Darwin ]]; then
        fail_environment "the Docker daemon does not answer. Start Docker Desktop (open -a Docker)" \
            "or colima (colima start), wait until it runs, and run this again."
    fi
    if docker version 2>&1 | grep -qi 'permission denied'; then
        fail_environment "the Docker daemon runs, but you may not talk to it. Either run this as root, or" \
            "sudo usermod -aG docker \"\$USER\"   then log out and in, and run this again."
    fi
    fail_environment "the Docker daemon does not run, and only root can start it. Do" \
        "sudo systemctl start docker   (or, without systemd: sudo setsid dockerd &) and run this again."
}

start_daemon() {
    local started_ms
    started_ms=$(now_ms)
    if has_systemd; then
        say "the Docker daemon does not run: systemctl start docker"
        quietly systemctl start docker ||
            fail_environment "systemd could not start Docker; see: journalctl -u docker"
    elif have dockerd; then
        say "the Docker daemon does not run: starting dockerd in the background, log in $DAEMON_LOG"
        start_dockerd_by_hand
    else
        fail_environment "there is a docker client but no dockerd and no systemd: install Docker Engine" \
            "(Debian and Ubuntu: apt-get install docker.io iptables) and run this again."
    fi
    if ! wait_until "$DAEMON_START_WAIT_S" daemon_answers; then
        tail -n 20 "$DAEMON_LOG" >&2 2>/dev/null || true
        fail_environment "the Docker daemon did not answer within $DAEMON_START_WAIT_S s; its last lines are above." \
            "If an old dockerd hangs, end it, and run this again."
    fi
    say "the Docker daemon answers after $(seconds_since "$started_ms")"
}

ensure_daemon() {
    if ! daemon_answers; then
        if ! daemon_is_local || [[ $(uname -s) != Linux ]] || ((EUID != 0)); then
            explain_dead_daemon
        fi
        start_daemon
    fi
    say "Docker Engine $(docker version --format '{{.Server.Version}}')"
}

# A container gets no congestion control that the host's list does not allow, and runs pin cubic by default. Where the
# kernel's own default is another one (bbr), cubic may be missing there; root adds it.
allow_cubic() {
    local list=/proc/sys/net/ipv4/tcp_allowed_congestion_control
    local known=/proc/sys/net/ipv4/tcp_available_congestion_control
    [[ -w $list && -r $known ]] || return 0
    if ! grep -qw cubic "$list" && grep -qw cubic "$known"; then
        printf '%s cubic' "$(cat "$list")" 2>/dev/null >"$list" || return 0
        say "containers may use TCP's cubic now (net.ipv4.tcp_allowed_congestion_control)"
    fi
}
