#!/usr/bin/env bash
# Runs the power-loss model over many seeds: benches/power.sh [SEEDS], 100,000 by default (about a minute on two cores).
# A failure prints the seed, and the command that repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."
HAUL_SEEDS="${1:-100000}" cargo test --release --lib power -- --nocapture
