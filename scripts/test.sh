#!/usr/bin/env bash
# Every test: on the adapter that wgpu picks, on the GL backend, a bench, then the builds without wgpu and for the browser, then Tint.
# With --yes it does not ask before it installs a driver, or Chromium, which reads a page in a test.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup

export WGPU_OPTIM_REQUIRE_GPU=1 # A test that finds no adapter fails instead of being skipped.
if [ "$(uname -s)" = Linux ]; then
    install_chromium
    export WGPU_OPTIM_REQUIRE_CHROMIUM=1 # So does one that finds no browser.
fi
wasm=wasm32-unknown-unknown

say() { printf '\n== %s\n' "$*"; }

has_wasm() { [ -d "$(rustc --print target-libdir --target $wasm)" ] || rustup target add $wasm; }

has_tint() {
    has node && has npm || return
    [ tests/tint/node_modules/.package-lock.json -nt tests/tint/package-lock.json ] ||
        npm ci --prefix tests/tint --ignore-scripts --no-audit --no-fund --loglevel=error
}

say "tests, on the adapter that wgpu picks"
cargo test --all-features

# Only Linux has GL without a window. It takes the shaders through another back end of naga and another compiler.
if [ "$(uname -s)" = Linux ]; then
    say "tests, on the GL backend"
    WGPU_BACKEND=gl cargo test --all-features
fi

say "the bench of kernels, once and small: it binds by hand what the optimizer binds"
cargo test --all-features --bench kernels -- 4096 1 > /dev/null

say "build without wgpu"
cargo check --no-default-features
cargo check --no-default-features --features checkpoint

say "build for the browser"
if has_wasm; then
    cargo check --lib --target $wasm --no-default-features --features web
else
    echo "SKIPPED: there is no $wasm to be had, so the browser build was NOT checked"
fi

say "shaders, by Tint (the WGSL compiler of Chromium)"
if has_tint; then
    node tests/tint/validate.mjs
else
    echo "SKIPPED: there is no node, npm or npm package webgpu to be had, so Tint has NOT seen the shaders"
    [ "${WGPU_OPTIM_REQUIRE_TINT:-0}" = 0 ] || fail "WGPU_OPTIM_REQUIRE_TINT is set"
fi
