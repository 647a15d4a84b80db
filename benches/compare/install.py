"""Builds haul and what its rows need, and installs the peers that are asked for and not there."""
import os, shutil, subprocess

from peers import SERVERS
from place import TOP

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
# programs that a peer needs beside its servers
PROGRAMS = {"rsync-ssh": ["rsync", "ssh"], "scp": ["ssh"], "qcp": ["ssh"], "rcp": ["ssh"], "lftp": ["lftp"]}
LINK = ["ip", "sysctl", "setpriv"]
# the Debian package that a program is in, where that is not called the same
PACKAGES = {"ssh": "openssh-client", "sshd": "openssh-server", "ip": "iproute2", "sysctl": "procps", "setpriv": "util-linux"}
# for each peer its crate, and what that wants to be built with
CRATES = {"rcp": ("rcp-tools-rcp", {"RUSTFLAGS": "--cfg tokio_unstable"}), "qcp": ("qcp", {})}


def missing(program):
    return shutil.which(program, path=PATH) is None


def run(*command, **more):
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, **more)


def install(peers, rows):
    """Everything that these peers and rows need. Debian's packages want root."""
    link = any(row.startswith("wan") for row in rows)
    wanted = [program for peer in peers for program in [*SERVERS.get(peer, []), *PROGRAMS.get(peer, [])]]
    wanted += LINK if link else []
    if packages := sorted({PACKAGES.get(program, program) for program in wanted if missing(program)}):
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-qy", "--no-install-recommends", *packages)
    for peer in peers:
        crate, env = CRATES.get(peer, (None, None))
        if crate and missing(peer):
            run("cargo", "install", "--locked", crate, env=dict(os.environ, **env))
    run("cargo", "build", "--release", cwd=TOP)
    if any(peer.startswith("pipe") for peer in peers):
        run("cargo", "build", "--release", "--example", "pipe", cwd=TOP)
    if link:
        run("cargo", "build", "--release", cwd=TOP / "benches/wanlink")
