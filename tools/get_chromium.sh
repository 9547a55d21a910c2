#!/bin/sh
# The browser tests need a chromium on PATH: find one, else install it where apt can, else say why they will skip.
set -u

find_browser() {
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" && return
    done
    return 1
}

# Fails, with its reason, where it cannot install.
install_browser() {
    if ! command -v apt-get >/dev/null; then
        reason="there is no apt-get to install one"
        return 1
    fi
    if [ "$(id -u)" -eq 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        reason="installing one needs root or a passwordless sudo"
        return 1
    fi
    echo "no chromium on PATH: installing one with apt-get"
    # shellcheck disable=SC2086  # as_root is empty or two words
    $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq chromium >/dev/null
    reason="apt-get could not install one"
}

reason=""
find_browser && exit 0
install_browser
find_browser && exit 0

echo "no chromium on PATH, and $reason: the browser tests will skip" >&2
[ "${CI:-}" != "true" ]
