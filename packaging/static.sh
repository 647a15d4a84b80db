#!/usr/bin/env bash
# Builds a haul that needs no libraries, for this kind of machine: for hosts that get a copy over
# ssh, and for containers. Prints the program's path, and nothing else, on standard output.
#
#   packaging/static.sh [PROFILE]      a profile of Cargo.toml: release (the default), quick …
#
# With musl where its standard library can be had, and its C compiler (Debian: musl-tools) for the C
# and assembler in ring, zstd and blake3. Else with a static glibc.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:-release}
folder=$profile
[ "$profile" = dev ] && folder=debug
machine=$(uname -m)
musl=$machine-unknown-linux-musl
name=${musl//-/_}

if command -v musl-gcc >/dev/null 2>&1 && rustup target add "$musl" >&2; then
  export "CC_$name=musl-gcc"
  cargo build --locked --profile "$profile" --target "$musl" --bin haul >&2
  built=target/$musl/$folder/haul
else
  echo "static.sh: no musl here: building with a static glibc" >&2
  gnu=$machine-unknown-linux-gnu
  # in a folder of its own: other flags rebuild everything
  RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --profile "$profile" \
    --target "$gnu" --target-dir target/static --bin haul >&2
  built=target/static/$gnu/$folder/haul
fi

# a program that names an interpreter needs libraries
if readelf -l "$built" | grep -q INTERP; then
  echo "static.sh: $built is not static" >&2
  exit 1
fi
echo "$PWD/$built"
