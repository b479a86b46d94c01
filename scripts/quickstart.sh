#!/usr/bin/env bash
# Builds the command line, then trains on with recorded gradients of a digit classifier, on the GPU and on the CPU.
# With --yes it does not ask before it installs a driver.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup

target=${CARGO_TARGET_DIR:-target}
program=$target/release/wgpu-optim
out=$target/quickstart
digits=assets/digits

echo "Building (the first time takes some minutes) ..."
cargo build --release
mkdir -p "$out"

grads=()
for file in "$digits"/grads-*.safetensors; do grads+=(--grads "$file"); done

for device in gpu cpu; do
    printf '\n== %s steps on the %s\n' $((${#grads[@]} / 2)) $device
    "$program" apply --config $digits/optim.toml --params $digits/params.safetensors "${grads[@]}" \
        --out-params "$out/$device.safetensors" --out-state "$out/$device-state.safetensors" --device $device
done

printf '\n== how far the two are apart\n'
"$program" compare "$out/gpu.safetensors" "$out/cpu.safetensors" --before $digits/params.safetensors

printf '\nThe results lie in %s:\n' "$out"
ls "$out"
