"""What goes wrong while servers and clients run over a Ceph of three nodes, and is mended."""

import os
import signal
import subprocess
import time
from pathlib import Path

from servers import rule


class Cluster:
    """The cluster's processes, three nodes of a monitor, a storage daemon and a gateway."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.conf = self.directory / "ceph.conf"

    def ids(self, node):
        names = [f"mon.{'abc'[node]}", f"osd.{node}", f"client.rgw.{node + 1}"]
        files = [self.directory / "run" / f"{name}.pid" for name in names]
        return [int(file.read_text()) for file in files if file.exists()]

    def signal(self, node, number):
        for pid in self.ids(node):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def start(self, node):
        """Starts a node's processes; returns what did not start."""
        failed = []
        for command in (["ceph-mon", "-i", "abc"[node]],
                        ["ceph-osd", "-i", str(node), "--keyring",
                         self.directory / f"osd.{node}" / "keyring"],
                        ["radosgw", "-n", f"client.rgw.{node + 1}"]):
            # a daemon that finds no quorum yet gives up
            for _ in range(10):
                started = subprocess.run([command[0], "-c", self.conf, *command[1:]],
                                         capture_output=True)
                if started.returncode == 0:
                    break
                time.sleep(2)
            else:
                failed.append(f"{command[0]}: {started.stderr[-200:]}")
        return failed

    def binds(self):
        """True if each daemon sends from its own address, so that a node can be cut off."""
        return "ms bind before connect = true" in self.conf.read_text()

    def run(self, *command):
        """Runs a command of Ceph's; a cluster that is recovering may take long over it."""
        for _ in range(10):
            try:
                done = subprocess.run([command[0], "-c", self.conf, *command[1:]],
                                      capture_output=True, timeout=60)
                if done.returncode == 0:
                    return
            except subprocess.TimeoutExpired:
                pass
            time.sleep(2)
        raise RuntimeError(f"{command} does not succeed")

    def gateways(self, *setting):
        """Changes a setting of all gateways that run."""
        for node in range(3):
            socket = self.directory / "run" / f"client.rgw.{node + 1}.asok"
            subprocess.run(["ceph", "--admin-daemon", socket, "config", "set", *setting],
                           capture_output=True, timeout=60)


class Faults:
    """Each method is a fault: it happens, lasts, and is mended."""

    def __init__(self, servers, cluster, chance, say):
        self.servers, self.cluster, self.chance, self.say = servers, cluster, chance, say
        self.wrong = []

    def lasts(self, least, most):
        time.sleep(self.chance.uniform(least, most))

    def restart(self, server, skew=None):
        server.signal(signal.SIGKILL)
        server.process.wait()
        self.lasts(0, 5)
        if not server.start(skew):
            self.say(f"server {server.number} does not start")

    def server_killed(self):
        self.restart(self.chance.choice(self.servers))

    def server_stopped(self):
        server = self.chance.choice(self.servers)
        server.signal(signal.SIGSTOP)
        self.lasts(5, 90)
        server.signal(signal.SIGCONT)

    def server_without_engine(self):
        self.cut("engine")

    def server_without_clients(self):
        self.cut("clients")

    def cut(self, end):
        network = self.chance.choice(self.servers).network
        network.cut(end)
        self.lasts(5, 90)
        network.mend()

    def clock_skewed(self):
        """A server goes on with a clock that is off by less than the engine allows."""
        self.restart(self.chance.choice(self.servers), self.chance.choice(["+12m", "-12m"]))

    def clock_wrong(self):
        """With one that is off by more it does not start, and says so."""
        server = self.chance.choice(self.servers)
        server.signal(signal.SIGKILL)
        server.process.wait()
        if server.spawn(self.chance.choice(["+20m", "-20m"])):
            self.wrong.append("a server with a wrong clock has started")
            server.signal(signal.SIGKILL)
        server.process.wait()
        if not server.start():
            self.say(f"server {server.number} does not start")

    def node_killed(self):
        node = self.chance.randrange(3)
        self.cluster.signal(node, signal.SIGKILL)
        self.lasts(5, 25)
        for failed in self.cluster.start(node):
            self.say(failed)

    def node_stopped(self):
        node = self.chance.randrange(3)
        self.cluster.signal(node, signal.SIGSTOP)
        self.lasts(5, 40)
        self.cluster.signal(node, signal.SIGCONT)

    def node_cut_off(self):
        """The monitor and the storage of a node hear nothing of the others, nor those of them."""
        node = self.chance.randrange(3)
        address = f"127.0.0.1{node + 1}"
        others = [f"127.0.0.1{other + 1}" for other in range(3) if other != node]
        pairs = [pair for other in others for pair in ((address, other), (other, address))]
        for source, target in pairs:
            rule("-I", "INPUT", "-i", "lo", "-s", source, "-d", target, "-j", "DROP")
        self.lasts(5, 40)
        for source, target in pairs:
            rule("-D", "INPUT", "-i", "lo", "-s", source, "-d", target, "-j", "DROP")

    def engine_full(self):
        self.cluster.run("ceph", "osd", "set-full-ratio", "0.0001")
        self.lasts(10, 80)
        self.cluster.run("ceph", "osd", "set-full-ratio", "0.95")

    def engine_throttles(self):
        """Its gateways answer more than three requests at once with 503 Slow Down."""
        self.cluster.gateways("rgw_max_concurrent_requests", "3")
        self.lasts(5, 40)
        self.cluster.gateways("rgw_max_concurrent_requests", "1024")

    def keys_revoked(self):
        self.cluster.run("radosgw-admin", "user", "suspend", "--uid", "haul")
        self.lasts(2, 6)
        self.cluster.run("radosgw-admin", "user", "enable", "--uid", "haul")

    @classmethod
    def kinds(cls):
        """The names of all faults."""
        return [name for name in vars(cls) if "_" in name.strip("_")]

    def happen(self, kind):
        getattr(self, kind)()
