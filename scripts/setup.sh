#!/usr/bin/env bash
# Makes sure that Rust and a graphics driver are there, and installs Mesa's software driver where none is.
# Run it by itself, or source it and call `setup`. With --yes as the first argument it does not ask before it installs.
set -euo pipefail

yes=${1:-}

# Without this directory, a layer of Mesa's prints a complaint at every start of every program.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-${TMPDIR:-/tmp}}"

fail() {
    echo "error: $*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null; }

has_library() { [[ "$(PATH="$PATH:/sbin" ldconfig -p)" == *"$1"* ]]; }

# A loader, and a driver for it to load: a real GPU's or Mesa's, whichever was installed before.
has_vulkan() {
    has_library libvulkan.so.1 || return 1
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] || compgen -G "/usr/share/vulkan/icd.d/*.json" >/dev/null ||
        compgen -G "/etc/vulkan/icd.d/*.json" >/dev/null
}

# install WHAT PACKAGE...: says what it is about to run, and asks unless it is root or was told --yes.
install() {
    local what=$1 command answer
    shift
    if has apt-get; then
        # A fresh system has no package lists yet.
        command="apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $*"
    elif has dnf; then
        command="dnf install -y $*"
    else
        command="pacman -S --needed --noconfirm $*"
    fi
    printf 'Missing: %s. To install it, this is run as root:\n    %s\n' "$what" "$command"
    if [ "$(id -u)" = 0 ]; then
        sh -c "$command" >/dev/null || fail "could not install $what"
        return
    fi
    has sudo || fail "there is no sudo here: run that line as root, then this script again"
    if [ "$yes" != --yes ]; then
        [ -t 0 ] || fail "there is no terminal to ask on: run that line as root, or this script again with --yes"
        read -r -p "Run it now, with sudo? [y/N] " answer
        [[ $answer == [yY]* ]] || fail "nothing was installed"
    fi
    sudo sh -c "$command" >/dev/null || fail "could not install $what"
}

# The packages hold Vulkan, and EGL for the GL backend, which the tests run on too.
install_mesa() {
    local what="a graphics driver (Mesa's software driver needs no GPU)"
    if has apt-get; then
        install "$what" mesa-vulkan-drivers libvulkan1 libegl1 libgles2 libgl1-mesa-dri
    elif has dnf; then
        install "$what" mesa-vulkan-drivers vulkan-loader mesa-libEGL mesa-dri-drivers
    elif has pacman; then
        install "$what" vulkan-swrast vulkan-icd-loader mesa
    else
        echo "warning: found no Vulkan driver or no EGL; if no GPU is found below, install Mesa's lavapipe and EGL" >&2
    fi
}

# A test opens the page of `bench --html` in it.
install_chromium() {
    if has chromium || has chromium-browser || has google-chrome; then return; fi
    has apt-get || has dnf || has pacman || fail "there is no Chromium here, which a test opens a page in: install one"
    install "Chromium" chromium
}

setup() {
    has cargo || fail "cargo is missing: get Rust from https://rustup.rs or from your distribution"
    [ "$(uname -s)" = Linux ] || return 0 # Metal and DirectX 12 come with their systems.
    has cc || fail "cc is missing: Rust links with it, so install gcc (Debian: gcc libc6-dev)"
    if ! has_vulkan || ! has_library libEGL.so.1; then install_mesa; fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then setup; fi
