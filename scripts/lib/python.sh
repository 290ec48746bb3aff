# shellcheck shell=bash
# Makes .venv with the locked versions of everything the operator's machine and the checks need.

VENV="$EDGERIG_REPO/.venv"
VENV_STAMP="$VENV/.edgerig-stamp"
VENV_EXTRAS=host,dev
# A slow line downloads 150 MB of wheels in this time; a dead one must not hang the setup.
PIP_WAIT_S=1800

python_is_new_enough() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

# can_make_venv PYTHON: Debian's python3 without python3-venv has venv but no ensurepip.
can_make_venv() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }

# find_python: the first Python 3.11 to 3.13 that can make a virtual environment.
find_python() {
    local name
    for name in "${EDGERIG_PYTHON:-python3}" python3.11 python3.12 python3.13; do
        if have "$name" && python_is_new_enough "$name" && can_make_venv "$name"; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

explain_missing_python() {
    if [[ $(uname -s) == Darwin ]]; then
        fail_environment "no Python 3.11 to 3.13 found. Install one (brew install python@3.13) and run this again."
    fi
    fail_environment "no Python 3.11 to 3.13 with venv found." \
        "Debian and Ubuntu: sudo apt-get install python3 python3-venv" \
        "elsewhere: install Python 3.11 or newer, or name one with EDGERIG_PYTHON, and run this again."
}

ensure_python() {
    PYTHON=$(find_python) && return 0
    if may_install; then
        apt_install python3 python3-venv
        PYTHON=$(find_python) && return 0
    fi
    explain_missing_python
}

# PyTorch is large and an oracle only: an environment of its own, which `make clean` removes.
use_torch_venv() {
    VENV="$EDGERIG_REPO/.cache/torch-venv"
    VENV_STAMP="$VENV/.edgerig-stamp"
    VENV_EXTRAS=dev,torch,privacy
}

# The stamp names what .venv was made from; the same inputs need no pip.
venv_inputs() {
    {
        cat "$EDGERIG_REPO/pyproject.toml" "$EDGERIG_REPO/requirements.lock"
        "$VENV/bin/python" -c 'import sys; print(sys.version, sys.prefix)'
    } | sha256_short
}

venv_is_fresh() {
    [[ -x $VENV/bin/edgerig && -f $VENV_STAMP ]] && "$VENV/bin/python" -c '' 2>/dev/null &&
        [[ $(cat "$VENV_STAMP") == "$(venv_inputs)" ]]
}

ensure_venv() {
    local started_ms
    if venv_is_fresh; then
        say "$(basename "$VENV") is up to date ($("$VENV/bin/python" --version))"
        return 0
    fi
    started_ms=$(now_ms)
    if ! { [[ -x $VENV/bin/python ]] && python_is_new_enough "$VENV/bin/python"; }; then
        ensure_python
        say "making $(basename "$VENV") with $PYTHON ($("$PYTHON" --version))"
        quietly "$PYTHON" -m venv --clear "$VENV" || fail_environment "python -m venv failed; see above."
    fi
    say "installing edgerig[$VENV_EXTRAS] in the versions of requirements.lock into $(basename "$VENV")"
    # Python compiles what it imports, once; compiling everything here costs twelve seconds of two cores.
    quietly timeout_or_not "$PIP_WAIT_S" "$VENV/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
        --constraint "$EDGERIG_REPO/requirements.lock" --editable "${EDGERIG_REPO}[$VENV_EXTRAS]" ||
        fail_environment "pip could not install the packages; see above." \
            "Check this machine's network and pip settings (pip config list) and run this again."
    venv_inputs >"$VENV_STAMP"
    say "$(basename "$VENV") is ready after $(seconds_since "$started_ms")"
}
