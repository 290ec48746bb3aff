# shellcheck shell=bash
# Chooses the base image of every build: pulled where a registry answers, built from Debian's packages otherwise.

PULLED_BASE=python:3.11-slim-bookworm
# python:3.11-slim-bookworm is bookworm too, so both kinds carry the same libc and the same apt packages.
BASE_SUITE=bookworm
BASE_RECORD="$EDGERIG_REPO/.cache/base-image"
# A registry that answers at all answers within seconds; the pull itself may take its time on a slow line.
REGISTRY_ANSWER_WAIT_S=20
PULL_WAIT_S=900

# What the images never read: documentation and translations.
BASE_EXCLUDES=(
    '/usr/share/doc/*' '/usr/share/man/*' '/usr/share/info/*' '/usr/share/locale/*' '/usr/share/i18n/*'
    '/usr/share/lintian/*' '/usr/share/bug/*' '/usr/share/groff/*' '/usr/share/pixmaps/*'
)

image_exists() { docker image inspect "$1" >/dev/null 2>&1; }

registry_spoke_or_gave_up() { grep -q 'Pulling from' "$1" || ! kill -0 "$2" 2>/dev/null; }

# pull_base: 0 when the image is here, 1 when no registry answered in time.
pull_base() {
    local log pid rc=0
    log=$(mktemp)
    timeout_or_not "$PULL_WAIT_S" docker pull "$PULLED_BASE" >"$log" 2>&1 </dev/null &
    pid=$!
    if ! wait_until "$REGISTRY_ANSWER_WAIT_S" registry_spoke_or_gave_up "$log" "$pid"; then
        kill "$pid" 2>/dev/null || true
    fi
    wait "$pid" || rc=$?
    ((rc == 0)) || say "could not pull $PULLED_BASE: $(tail -n 1 "$log" | cut -c1-160)"
    rm -f "$log"
    return $((rc != 0))
}

# The recipe's name: another list of packages or excludes is another image.
built_base_tag() {
    printf 'edgerig-base:%s' "$(printf '%s\n' "$BASE_SUITE" "${BASE_EXCLUDES[@]}" "$(declare -f mmdebstrap_base)" | sha256_short)"
}

# This machine's own sources of the suite (updates and security too), so that no host needs a name here.
base_sources() {
    local signed_by="" found mirror
    [[ ! -f $DEBIAN_KEYRING ]] || signed_by="[signed-by=$DEBIAN_KEYRING] "
    found=$(apt_sources |
        awk -v suite="$BASE_SUITE" -v by="$signed_by" \
            '$3 == "main" && ($2 == suite || $2 == suite "-updates" || $2 == suite "-security") \
             && !seen[$1 $2]++ { print "deb " by $1 " " $2 " main" }')
    if [[ -z $found ]]; then
        mirror=$(debian_mirror)
        [[ -n $mirror ]] || return 1
        found="deb $signed_by$mirror $BASE_SUITE main"
    fi
    printf '%s\n' "$found"
}

# mmdebstrap_base OUT: a bookworm with Python as a tar. Parts of Python's library that no service imports go after
# dpkg has configured them (it byte-compiles whole packages), their bytecode stays: a read-only root filesystem
# could not cache it, and compiling at every start is slow under a throttled CPU. usr-is-merged with its hook stands
# in for usrmerge, which would bring 50 MB of Perl.
mmdebstrap_base() {
    local options=() exclude setting
    # shellcheck disable=SC2016  # $1 is the hook's own: the folder of the new system
    local hooks=(
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/cache/debconf/*-old'
        --customize-hook='rm -rf "$1"/var/log/* "$1"/etc/apt/apt.conf.d/99mmdebstrap'
        --customize-hook='rm -rf "$1"/usr/lib/python3*/lib2to3 "$1"/usr/lib/python3*/pydoc_data'
    )
    for exclude in "${BASE_EXCLUDES[@]}"; do
        options+=("--dpkgopt=path-exclude=$exclude")
    done
    # mmdebstrap reads none of this machine's apt.conf; a hook takes the settings out of the image again.
    while read -r setting; do
        options+=("--aptopt=$setting")
    done < <(apt_network_settings)
    base_sources | mmdebstrap --variant=minbase --include=python3,usr-is-merged \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --aptopt='Acquire::Retries "3"' --aptopt='Acquire::Languages "none"' \
        "${hooks[@]}" "${options[@]}" "$BASE_SUITE" "$1" -
}

build_base() {
    local tag=$1 started_ms scratch
    started_ms=$(now_ms)
    if ! may_install || [[ $(os_release ID) != debian ]]; then
        fail_environment "no registry answers, so $PULLED_BASE cannot be pulled, and building a base image" \
            "instead needs a Debian machine and root. Make a registry reachable, or load the image" \
            "(docker save $PULLED_BASE elsewhere, docker load here), and run this again."
    fi
    say "no registry answers: building the base image $tag from Debian's packages instead"
    have mmdebstrap || apt_install mmdebstrap
    scratch=$(mktemp -d)
    if ! quietly mmdebstrap_base "$scratch/base.tar"; then
        rm -rf "$scratch"
        fail_environment "the base image could not be built from Debian's packages; see above."
    fi
    quietly docker import --change 'CMD ["python3"]' --message "EdgeRig base from Debian's packages" \
        "$scratch/base.tar" "$tag" || { rm -rf "$scratch"; fail_environment "docker import failed; see above."; }
    rm -rf "$scratch"
    say "built the base image in $(seconds_since "$started_ms")"
}

# Sets BASE_IMAGE and records the choice, so that the next setup takes no time over it.
ensure_base_image() {
    local recorded="" built
    built=$(built_base_tag)
    [[ ! -f $BASE_RECORD ]] || recorded=$(cat "$BASE_RECORD")
    if [[ -n ${EDGERIG_BASE_IMAGE:-} ]]; then
        BASE_IMAGE=$EDGERIG_BASE_IMAGE
    elif [[ $recorded == "$PULLED_BASE" || $recorded == "$built" ]] && image_exists "$recorded"; then
        BASE_IMAGE=$recorded
    elif image_exists "$PULLED_BASE" || pull_base; then
        BASE_IMAGE=$PULLED_BASE
    else
        image_exists "$built" || build_base "$built"
        BASE_IMAGE=$built
    fi
    mkdir -p "$(dirname "$BASE_RECORD")"
    printf '%s\n' "$BASE_IMAGE" >"$BASE_RECORD"
    say "base image: $BASE_IMAGE"
}
