#!/usr/bin/env bash
# Runs a command with SwiftShader as its only Vulkan driver, the one that headless Chromium has:
#     scripts/swiftshader.sh target/release/wgpu-optim verify
# It shares no code with Mesa's drivers, has no f16 and subgroups of 4. Debian ships it with Chromium.
# With --yes before the command it does not ask before it installs.
set -euo pipefail
# shellcheck source=scripts/setup.sh
. "$(dirname "$0")/setup.sh"
if [ "${1:-}" = --yes ]; then shift; fi
[ $# -gt 0 ] || fail "usage: $0 [--yes] COMMAND [ARGUMENT]..."

driver=/usr/lib/chromium/vk_swiftshader_icd.json
if [ ! -e $driver ] || ! has_library libvulkan.so.1; then
    has apt-get || fail "$driver is missing, and there is no apt to get it with"
    install SwiftShader chromium-common libvulkan1
    [ -e $driver ] || fail "chromium-common holds no $driver" # Ubuntu's Chromium is a snap.
fi

# Loaders before 1.3.207 know the second name only. Without the third, wgpu would offer GL adapters too.
export VK_DRIVER_FILES=$driver VK_ICD_FILENAMES=$driver WGPU_BACKEND=vulkan
exec "$@"
