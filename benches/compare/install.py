"""Builds haul and what its rows need, and installs the peers that are asked for and not there."""
import os, shutil, subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
SSH = {"ssh": "openssh-client", "sshd": "openssh-server"}
# for each peer its programs, and the Debian packages that they are in
PACKAGES = {
    "rsync": {"rsync": "rsync"},
    "rsync-nosync": {"rsync": "rsync"},
    "rsync-ssh": {"rsync": "rsync", **SSH},
    "scp": SSH,
    "lftp": {"lftp": "lftp", "vsftpd": "vsftpd"},
    "rcp": SSH,
    "qcp": SSH,
}
# for each peer its crate, and what that wants to be built with
CRATES = {"rcp": ("rcp-tools-rcp", {"RUSTFLAGS": "--cfg tokio_unstable"}), "qcp": ("qcp", {})}
LINK = {"ip": "iproute2", "sysctl": "procps", "setpriv": "util-linux"}


def missing(program):
    return shutil.which(program, path=PATH) is None


def run(*command, **more):
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, **more)


def install(peers, rows):
    """Everything that these peers and rows need. Debian's packages want root."""
    wanted = dict(LINK) if any(row.startswith("wan") for row in rows) else {}
    for peer in peers:
        wanted.update(PACKAGES.get(peer, {}))
    if packages := sorted({package for program, package in wanted.items() if missing(program)}):
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-qy", "--no-install-recommends", *packages)
    for peer in peers:
        crate, env = CRATES.get(peer, (None, None))
        if crate and missing(peer):
            run("cargo", "install", "--locked", crate, env=dict(os.environ, **env))
    run("cargo", "build", "--release", cwd=TOP)
    if any(peer.startswith("pipe") for peer in peers):
        run("cargo", "build", "--release", "--example", "pipe", cwd=TOP)
    if any(row.startswith("wan") for row in rows):
        run("cargo", "build", "--release", cwd=TOP / "benches/wanlink")
