"""A place to measure in: a haul server and the peers' servers over one directory, reached directly or over a link."""
import json, os, pwd, shutil, signal, subprocess, time
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parents[2]
HAUL = TOP / "target/release/haul"
WANLINK = TOP / "benches/wanlink/target/release/wanlink"
ALLOWED = "net.ipv4.tcp_allowed_congestion_control"
DEFAULT = "net.ipv4.tcp_congestion_control"


def sysctl(name, value=None):
    """Reads a setting of this machine, or sets it."""
    if value is None:
        return subprocess.run(["sysctl", "-n", name], check=True, capture_output=True, text=True).stdout.strip()
    return subprocess.run(["sysctl", "-qw", f"{name}={value}"], check=True)


class Congestion:
    """What TCP may use: `bbr` (cubic unless a program asks for BBR) or `cubic` (nobody gets BBR, not even root)."""

    def __init__(self, kind):
        self.before = [(name, sysctl(name)) for name in (ALLOWED, DEFAULT)]
        sysctl(ALLOWED, "reno cubic bbr" if kind == "bbr" else "reno cubic")
        sysctl(DEFAULT, "cubic")
        # root may choose what is not allowed, unless it gives that right up
        self.prefix = [] if kind == "bbr" else ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]

    def restore(self):
        for name, value in self.before:
            sysctl(name, value)


class Spent(NamedTuple):
    """What a run took: seconds, the peak memory of client and server in KiB, and the processor seconds of both sides, user and
    system."""
    seconds: float
    client: int = 0
    server: int = 0
    cpu: float = 0.0


class Place:
    def __init__(self, work, durable=False, link=None, congestion=None, servers=(), haul_options=(), ciphers=""):
        self.work, self.durable, self.haul_options, self.ciphers = work, durable, list(haul_options), ciphers
        self.root, self.back, self.aside = work / "root", work / "back", 0
        for directory in (self.root, self.back, work / "config"):
            directory.mkdir(parents=True, exist_ok=True)
        self.children, self.near, self.far, self.host = [], [], [], "127.0.0.1"
        limited = congestion.prefix if congestion else []
        if link is not None:
            wanlink = [WANLINK, *link, "cmp"]
            child = subprocess.Popen([str(a) for a in wanlink], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.children.append(child)
            if child.stdout.readline() != "ready\n":
                raise SystemExit("compare.py: wanlink did not start (it needs root and /dev/net/tun)")
            self.near = ["ip", "netns", "exec", "cmp-a", *limited]
            self.far, self.host = ["ip", "netns", "exec", "cmp-b", *limited], "10.77.0.2"
        self.env = dict(os.environ, HAUL_CONFIG_DIR=str(work / "config"))
        self.start_haul()
        for server in servers:
            getattr(self, f"start_{server}")()

    def start(self, *command, **more):
        """A server in the far namespace, until the end."""
        more.setdefault("stdout", subprocess.DEVNULL)
        child = subprocess.Popen([str(a) for a in [*self.far, *command]], stderr=subprocess.DEVNULL, **more)
        self.children.append(child)
        return child

    def start_haul(self):
        state = self.work / "state"
        serve = [HAUL, "serve", "--json", "--listen", f"{self.host}:0", "--state", state, self.root]
        self.server = self.start(*serve, stdout=subprocess.PIPE, text=True)
        self.address = json.loads(self.server.stdout.readline())["address"]
        invite = subprocess.run([HAUL, "invite", "bench", "--state", state], check=True, capture_output=True).stdout
        login = [*self.near, HAUL, "login", "--name", "srv", self.address]
        subprocess.run([str(a) for a in login], input=invite, env=self.env, check=True, capture_output=True)

    def wait_for(self, port):
        """Until a server accepts connections."""
        probe = f"import socket; socket.create_connection(('{self.host}', {port}), 1)"
        for _ in range(100):
            if subprocess.run([*self.near, "python3", "-c", probe], capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        raise SystemExit(f"compare.py: nothing listens on port {port}")

    def start_rsync(self):
        conf = self.work / "rsyncd.conf"
        conf.write_text(f"use chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n[m]\npath = {self.root}\nread only = no\n")
        self.start("rsync", "--daemon", "--no-detach", f"--config={conf}", "--port=8730", f"--address={self.host}")
        self.wait_for(8730)

    def start_sshd(self):
        """A daemon with keys of its own; `self.ssh` is the client's configuration."""
        for name in ("host", "user"):
            key = self.work / f"ssh_{name}"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        shutil.copy(self.work / "ssh_user.pub", self.work / "authorized")
        (self.work / "authorized").chmod(0o600)
        Path("/run/sshd").mkdir(exist_ok=True)
        conf = self.work / "sshd_config"
        conf.write_text(
            f"Port 8722\nListenAddress {self.host}\nHostKey {self.work}/ssh_host\nAuthorizedKeysFile {self.work}/authorized\n"
            f"PermitRootLogin yes\nStrictModes no\nUsePAM no\nSubsystem sftp internal-sftp\nPidFile none\n"
            f"SetEnv PATH={HAUL.parent}:{os.environ['PATH']}\n"
        )
        self.ssh = self.work / "ssh_config"
        user = pwd.getpwuid(os.getuid()).pw_name
        self.ssh.write_text(
            f"Host far {self.host}\nHostName {self.host}\nPort 8722\nUser {user}\nIdentityFile {self.work}/ssh_user\nLogLevel ERROR\n"
            "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n" + (f"Ciphers {self.ciphers}\n" if self.ciphers else "")
        )
        # for tools that run ssh, and cannot be told which configuration is meant
        wrapper = self.work / "bin" / "ssh"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {self.ssh} "$@"\n')
        wrapper.chmod(0o755)
        self.env["PATH"] = f"{wrapper.parent}:{os.environ['PATH']}"
        self.start("/usr/sbin/sshd", "-D", "-f", conf)
        self.wait_for(8722)

    def start_vsftpd(self):
        """Anonymous may do everything in `root`, in plain text."""
        shutil.chown(self.root, "ftp")
        conf = self.work / "vsftpd.conf"
        conf.write_text(
            f"listen=YES\nlisten_address={self.host}\nlisten_port=8721\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n"
            f"write_enable=YES\nanon_upload_enable=YES\nanon_mkdir_write_enable=YES\nanon_other_write_enable=YES\n"
            f"anon_umask=022\nno_anon_password=YES\nftp_username=ftp\nanon_root={self.work}\n"
            "seccomp_sandbox=NO\nisolate=NO\nisolate_network=NO\nsecure_chroot_dir=/var/run/vsftpd/empty\n"
        )
        Path("/var/run/vsftpd/empty").mkdir(parents=True, exist_ok=True)
        self.start("vsftpd", conf)
        self.wait_for(8721)

    def close(self):
        for child in reversed(self.children):
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            child.wait()

    def clear(self, *directories):
        """Empties directories. Trees on a disk are only put aside: ext4 looks long for an inode that was not used a moment
        ago (recently_deleted() in fs/ext4/ialloc.c), and that would be all that is measured."""
        for directory in directories:
            for entry in directory.iterdir():
                if not entry.is_dir() or entry.is_symlink():
                    entry.unlink()
                elif self.durable:
                    self.aside += 1
                    entry.rename(self.work / f"aside-{self.aside}")
                else:
                    shutil.rmtree(entry)
        self.settle()

    def settle(self):
        if self.durable:
            os.sync()

    def servers_cpu(self):
        """Processor seconds of all servers so far, with those of their children that have ended."""
        ticks = 0
        for child in self.children:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += sum(int(field) for field in fields[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def run(self, *command, **more):
        """What a command takes on the near side. It must succeed."""
        command = [str(a) for a in [*self.near, *command]]
        before = self.servers_cpu()
        started = time.monotonic()
        child = subprocess.Popen(command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)
        stderr = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        if child.returncode != 0:
            raise SystemExit(f"compare.py: {' '.join(command)}: exit {child.returncode}: {stderr.decode(errors='replace')}")
        # a daemon learns of its child's end a moment later
        time.sleep(0.03)
        cpu = usage.ru_utime + usage.ru_stime + self.servers_cpu() - before
        return Spent(seconds, usage.ru_maxrss, 0, cpu)

    def haul(self, *args):
        """What haul takes, with the peak memory of its server."""
        status = Path(f"/proc/{self.server.pid}")
        (status / "clear_refs").write_text("5")
        spent = self.run(HAUL, *args)
        peak = next(line for line in (status / "status").read_text().splitlines() if line.startswith("VmHWM"))
        return spent._replace(server=int(peak.split()[1]))
