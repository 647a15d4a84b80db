"""Servers of haul, each in a network namespace of its own, so that it can be cut off."""

import subprocess
import time
from pathlib import Path

HAUL = Path(__file__).resolve().parent.parent.parent / "target" / "release" / "haul"
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
GATEWAY = 7480


def ip(*command, check=True):
    subprocess.run(["ip", *map(str, command)], check=check, capture_output=True)


def rule(*command):
    subprocess.run(["iptables", *map(str, command)], check=True, capture_output=True)


class Network:
    """A namespace with a link to the clients and one to a gateway of the engine."""

    def __init__(self, number):
        self.number = number
        self.name = f"haul-store-{number}"
        self.links = {"clients": f"hsc{number}", "engine": f"hse{number}"}
        self.here = {"clients": f"10.77.{number}.1", "engine": f"10.78.{number}.1"}
        self.address = f"10.77.{number}.2"
        self.endpoint = f"http://10.78.{number}.1:{GATEWAY}"
        self.rules = []

    def make(self):
        ip("netns", "del", self.name, check=False)
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")
        for end, link in self.links.items():
            ip("link", "add", link, "type", "veth", "peer", "name", f"to-{end}", "netns",
               self.name)
            ip("addr", "add", f"{self.here[end]}/30", "dev", link)
            ip("link", "set", link, "up")
            there = self.here[end][:-1] + "2"
            ip("-n", self.name, "addr", "add", f"{there}/30", "dev", f"to-{end}")
            ip("-n", self.name, "link", "set", f"to-{end}", "up")
        engine = self.links["engine"]
        Path(f"/proc/sys/net/ipv4/conf/{engine}/route_localnet").write_text("1")
        self.add("-t", "nat", "PREROUTING", "-i", engine, "-p", "tcp", "--dport", GATEWAY, "-j",
                 "DNAT", "--to-destination", f"127.0.0.1{self.number % 3 + 1}:{GATEWAY}")

    def add(self, *words):
        """Adds a rule, before all others; `words` may begin with a table."""
        table, words = (words[:2], words[2:]) if words[0] == "-t" else ((), words)
        rule(*table, "-I", *words)
        self.rules.append((table, words))

    def cut(self, end):
        """Drops everything on a link, in both directions."""
        self.add("INPUT", "-i", self.links[end], "-j", "DROP")
        self.add("OUTPUT", "-o", self.links[end], "-j", "DROP")

    def mend(self):
        """Removes all rules but the first one, which is the way to the gateway."""
        while len(self.rules) > 1:
            self.remove(self.rules.pop())

    def remove(self, added):
        table, words = added
        rule(*table, "-D", *words)

    def end(self):
        for added in self.rules:
            self.remove(added)
        ip("netns", "del", self.name, check=False)


class Server:
    """A server of the bucket, at an address that stays."""

    def __init__(self, number, args, work):
        self.number, self.args, self.work = number, args, work
        self.network = Network(number)
        self.network.make()
        self.address = f"{self.network.address}:{args.port}"
        self.process = None

    def options(self, endpoint=None):
        # the clients' commands run outside the namespace
        endpoint = endpoint or f"http://127.0.0.1{self.number % 3 + 1}:{GATEWAY}"
        return ["--store", f"s3://{self.args.bucket}/{self.args.prefix}", "--endpoint", endpoint,
                "--credentials", self.args.credentials, "--key", self.work / "key"]

    def spawn(self, skew=None):
        """Starts the process; with `skew` as "+10m" its clock is wrong by that much."""
        faked = ["env", f"LD_PRELOAD={FAKETIME}", f"FAKETIME={skew}",
                 "FAKETIME_DONT_FAKE_MONOTONIC=1"] if skew else []
        log = open(self.work / f"server{self.number}.log", "a")
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.network.name, *faked, HAUL, "serve",
             *self.options(self.network.endpoint), "--lease", self.args.lease, "--state",
             self.work / f"server{self.number}", "--listen", self.address, "--json"],
            stdout=subprocess.PIPE, stderr=log, text=True)
        # another event tells why it does not
        return '"listening"' in self.process.stdout.readline()

    def start(self, skew=None):
        """Starts it, also when the engine is away for a while. False if it does not start."""
        for _ in range(60):
            if self.spawn(skew):
                return True
            self.process.wait()
            time.sleep(2)
        return False

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.network.end()
