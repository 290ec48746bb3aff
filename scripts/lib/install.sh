# shellcheck shell=bash
# Installs what Docker needs on Debian and Ubuntu as root; elsewhere says exactly what to install.

# Debian's archive key, from the package debian-archive-keyring: what the machine's own sources trust.
DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
PLUGIN_DIR="${EDGERIG_PLUGIN_DIR:-/usr/libexec/docker/cli-plugins}"
# The first Debian release whose archive has compose v2 and buildx.
PLUGIN_SUITE=trixie

# shellcheck disable=SC1091
os_release() { (. "$EDGERIG_SYSROOT/etc/os-release" && printf '%s' "${!1:-}") 2>/dev/null || true; }

is_debian_family() {
    [[ " $(os_release ID) $(os_release ID_LIKE) " == *" debian "* ]] && have apt-get
}

may_install() { ((EUID == 0)) && is_debian_family; }

# Retries and timeouts: a mirror that stalls must end the setup with a message, not hang it.
apt_do() {
    DEBIAN_FRONTEND=noninteractive quietly apt-get -qq -y \
        -o Acquire::Retries=3 -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=120 "$@"
}

apt_refresh_once() {
    [[ -z ${APT_REFRESHED:-} ]] || return 0
    apt_do update || fail_environment "apt-get update failed; see above. Check this machine's network and apt sources."
    APT_REFRESHED=1
}

# apt_candidate PACKAGE: the version apt would install, or nothing.
apt_candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -v '(none)' || true; }

apt_install() {
    local started_ms
    started_ms=$(now_ms)
    say "installing from this machine's apt sources: $*"
    apt_refresh_once
    apt_do install --no-install-recommends "$@" ||
        fail_environment "apt-get install $* failed; see above." "Install these packages and run this again."
    say "installed in $(seconds_since "$started_ms")"
}

have_compose() { docker compose version --short 2>/dev/null | grep -qE '^v?([2-9]|[1-9][0-9])\.'; }
have_buildx() { docker buildx version >/dev/null 2>&1; }

say_what_to_install() {
    if [[ $(uname -s) == Darwin ]]; then
        fail_environment "missing: $*." \
            "Install Docker Desktop (https://docs.docker.com/desktop/) or: brew install docker docker-compose docker-buildx colima" \
            "then start it, and run this again."
    fi
    if is_debian_family; then
        fail_environment "missing: $*. Run this as root (sudo scripts/setup --docker-only) and it installs them," \
            "or install Docker Engine, compose v2 and buildx: https://docs.docker.com/engine/install/"
    fi
    fail_environment "missing: $*." \
        "Install Docker Engine >= 20.10, the compose plugin v2 and buildx: https://docs.docker.com/engine/install/" \
        "start the daemon, and run this again. Without Docker: make process-demo"
}

ensure_engine() {
    if have docker && { daemon_answers || ! daemon_is_local || have dockerd || has_systemd; }; then
        return 0
    fi
    may_install || say_what_to_install "Docker Engine"
    apt_refresh_once
    local packages=(docker.io iptables)
    # From trixie on the client is a package of its own, which docker.io only recommends.
    have docker || [[ -z $(apt_candidate docker-cli) ]] || packages+=(docker-cli)
    apt_install "${packages[@]}"
    hash -r
    have docker || fail_environment "docker.io is installed, but there is no docker on the PATH ($PATH)." \
        "Add the folder of the docker command to the PATH and run this again."
}

# plugin_package compose|buildx: the package of this machine's own sources that has it, or nothing.
plugin_package() {
    local name version
    for name in "docker-$1-v2" "docker-$1"; do
        version=$(apt_candidate "$name")
        # bookworm's docker-compose is 1.29, a Python program and no plugin.
        if [[ -n $version && $version != 1.* ]]; then
            printf '%s' "$name"
            return 0
        fi
    done
}

# apt_sources: "URI suite component" of every binary package source of this machine, as apt itself reads them.
apt_sources() {
    # shellcheck disable=SC2016  # apt's own variables
    apt-get indextargets --format '$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)' 2>/dev/null |
        sed -n 's/^Packages //p'
}

# How this machine's apt reaches its sources: proxies, and date checks for frozen mirrors.
apt_network_settings() {
    have apt-config || return 0
    apt-config dump 2>/dev/null | grep -iE '^Acquire::(https?::Proxy|Check-(Valid-Until|Date)) ' || true
}

# The Debian mirror in this machine's own apt sources, so that no host needs a name here.
debian_mirror() { apt_sources | awk '$2 !~ /[-\/]/ && $3 == "main" && !found { print $1; found = 1 }'; }

# Downloads the two .debs through a temporary apt configuration and takes their binaries only: the machine's
# own sources, lists and package database stay as they are.
unpack_plugins_from_trixie() {
    local scratch mirror signed_by=""
    mirror=$(debian_mirror)
    [[ $(os_release ID) == debian && -n $mirror ]] || say_what_to_install "the compose plugin v2, buildx"
    scratch=$(mktemp -d)
    mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial" "$scratch/root"
    [[ ! -f $DEBIAN_KEYRING ]] || signed_by="[signed-by=$DEBIAN_KEYRING] "
    printf 'deb %s%s %s main\n' "$signed_by" "$mirror" "$PLUGIN_SUITE" >"$scratch/sources.list"
    local isolated=(-o "Dir::Etc::sourcelist=$scratch/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$scratch/lists" -o "Dir::Cache=$scratch/cache" -o APT::Sandbox::User=root)
    if ! apt_do "${isolated[@]}" update ||
        ! (cd "$scratch" && apt_do "${isolated[@]}" download docker-compose docker-buildx); then
        rm -rf "$scratch"
        say_what_to_install "the compose plugin v2, buildx ($PLUGIN_SUITE's packages could not be downloaded)"
    fi
    local package
    for package in "$scratch"/*.deb; do
        say "unpacking $(basename "$package") into $PLUGIN_DIR"
        dpkg-deb -x "$package" "$scratch/root"
    done
    mkdir -p "$PLUGIN_DIR"
    install -m 0755 "$scratch/root/usr/libexec/docker/cli-plugins/docker-"{compose,buildx} "$PLUGIN_DIR/"
    rm -rf "$scratch"
}

ensure_plugins() {
    if have_compose && have_buildx; then
        return 0
    fi
    local started_ms compose=present buildx=present missing=()
    started_ms=$(now_ms)
    may_install || say_what_to_install "the compose plugin v2 and buildx"
    apt_refresh_once
    if ! have_compose; then compose=$(plugin_package compose) && missing+=("$compose"); fi
    if ! have_buildx; then buildx=$(plugin_package buildx) && missing+=("$buildx"); fi
    if [[ -n $compose && -n $buildx ]]; then
        apt_install "${missing[@]}"
    else
        say "this release has no compose v2: taking compose and buildx from Debian $PLUGIN_SUITE's packages"
        unpack_plugins_from_trixie
    fi
    if ! have_compose || ! have_buildx; then
        say_what_to_install "the compose plugin v2 or buildx (installed, but docker does not find it)"
    fi
    say "compose and buildx are there after $(seconds_since "$started_ms")"
}

ensure_docker() {
    ensure_engine
    ensure_daemon
    ensure_plugins
    say "compose $(docker compose version --short), $(docker buildx version | cut -d' ' -f1,2)"
}
