# shellcheck shell=bash
# Builds the images, with this machine's CA bundle, pip settings and apt proxy as build secrets.

BUILD_SETTINGS="$EDGERIG_REPO/.cache/build"
BUILD_ENV="$EDGERIG_REPO/.cache/build.env"
# A first build over a slow line downloads 60 MB of wheels; without code changes it takes a second.
IMAGES_WAIT_S=1800
# BuildKit refuses a larger secret.
SECRET_MAX_BYTES=500000

# The bundle that this machine's own programs trust: what a build needs behind a proxy that re-signs TLS.
host_ca_bundle() {
    local file
    for file in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
        /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
        if [[ -n $file && -s $file ]]; then
            printf '%s' "$file"
            return 0
        fi
    done
}

write_ca_bundle() {
    local bundle
    bundle=$(host_ca_bundle)
    rm -f "$BUILD_SETTINGS/ca.crt"
    [[ -n $bundle ]] || return 0
    if (($(wc -c <"$bundle") > SECRET_MAX_BYTES)); then
        say "the CA bundle $bundle is larger than $SECRET_MAX_BYTES bytes: builds use the base image's own"
        return 0
    fi
    cp "$bundle" "$BUILD_SETTINGS/ca.crt"
}

# apt's proxy and date checks, unless the proxy is this machine's loopback, which a build cannot reach.
write_apt_settings() {
    rm -f "$BUILD_SETTINGS/apt.conf"
    (
        umask 077
        apt_network_settings | grep -vE 'localhost|127\.0\.0\.|\[::1\]' >"$BUILD_SETTINGS/apt.conf" || true
    )
    [[ -s $BUILD_SETTINGS/apt.conf ]] || rm -f "$BUILD_SETTINGS/apt.conf"
}

build_env_line() { [[ ! -s $2 ]] || printf '%s=%s\n' "$1" "$2"; }

# The same lines for `edgerig run`, for this script, and as .env beside the committed compose example: plain
# `docker compose -f compose/examples/quickstart.yaml up --build` then works here too. All three are git-ignored.
write_build_env() {
    mkdir -p "$BUILD_SETTINGS"
    write_ca_bundle
    write_apt_settings
    "$EDGERIG_REPO/.venv/bin/python" "$EDGERIG_REPO/scripts/lib/pip_settings.py" "$BUILD_SETTINGS/pip.conf"
    {
        echo "# Written by scripts/setup: how images are built on this machine."
        echo "EDGERIG_BASE_IMAGE=$BASE_IMAGE"
        build_env_line EDGERIG_BUILD_CA "$BUILD_SETTINGS/ca.crt"
        build_env_line EDGERIG_BUILD_PIP "$BUILD_SETTINGS/pip.conf"
        build_env_line EDGERIG_BUILD_APT "$BUILD_SETTINGS/apt.conf"
    } >"$BUILD_ENV"
    [[ ! -d $EDGERIG_REPO/compose/examples ]] || cp "$BUILD_ENV" "$EDGERIG_REPO/compose/examples/.env"
}

build_images() {
    local started_ms
    started_ms=$(now_ms)
    say "building the images (agent, coordinator, hostd, broker)"
    DOCKER_BUILDKIT=1 quietly timeout_or_not "$IMAGES_WAIT_S" docker compose --env-file "$BUILD_ENV" --progress plain \
        -f "$EDGERIG_REPO/images/compose.yaml" build ||
        fail_environment "the images could not be built; see above."
    # A rebuild leaves the image it replaced without a name.
    docker image prune --force --filter label=io.edgerig.image >/dev/null
    say "images are ready after $(seconds_since "$started_ms")"
}

ensure_images() {
    ensure_base_image
    write_build_env
    build_images
}
