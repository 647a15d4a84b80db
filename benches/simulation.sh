#!/usr/bin/env bash
# The simulation of both sides over many seeds: the first argument is their number, the second the
# first one. A failure prints the command that repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."
HAUL_SEEDS="${1:-400000}" HAUL_FIRST_SEED="${2:-0}" cargo test --release --lib simulation -- --nocapture
