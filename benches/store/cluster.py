#!/usr/bin/env python3
"""Servers and clients of haul over a real cluster while parts of it fail.

    benches/store/cluster.py --ceph DIR --credentials FILE [--minutes 20] [--clients 8]

DIR is a cluster of three nodes on this machine: DIR/run has the process ids of each node's monitor,
storage daemon and gateway, DIR/ceph.conf their configuration, and the gateways listen at port 7480
of 127.0.0.11, 127.0.0.12 and 127.0.0.13. Each server has a network namespace of its own.

Each client writes files of its own, whose content this script knows. Meanwhile the faults of
faults.py happen, one after another. In the end everything is read through haul and compared with
what was acknowledged, and every entry and blob is read by another program and compared with its
record.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import blake3

import peers
from faults import Cluster, Faults
from servers import HAUL, Server

LOG = threading.Lock()


def say(text):
    with LOG:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Client(threading.Thread):
    """Random puts and gets, against what was acknowledged."""

    def __init__(self, number, args, work, servers, stop):
        super().__init__()
        self.number, self.args, self.stop = number, args, stop
        self.work = work / f"client{number}"
        self.work.mkdir()
        self.env = dict(os.environ, XDG_CONFIG_HOME=str(self.work / "config"),
                        XDG_STATE_HOME=str(self.work / "state"))
        self.servers = servers
        self.random = random.Random(args.seed + number)
        self.known = {}
        self.wrong = []
        self.done = {"put": 0, "get": 0, "failed": 0}

    def haul(self, *command, timeout=600):
        done = subprocess.run([HAUL, *map(str, command)], env=self.env, cwd=self.work, text=True,
                              capture_output=True, timeout=timeout)
        return done

    def login(self):
        for server in self.servers:
            code = subprocess.run([HAUL, "invite", f"user{self.number}", *server.options()],
                                  text=True, capture_output=True, check=True).stdout
            subprocess.run([HAUL, "login", server.address, "--name", f"s{server.number}"],
                           env=self.env, input=code, text=True, check=True, capture_output=True)
        self.haul("mkdir", "-p", f"s0:home{self.number}")

    def server(self):
        return f"s{self.random.randrange(len(self.servers))}"

    def content(self):
        # what is replaced stays for a day: large ones are rare
        sizes = {0: 10, 100: 10, 40_000: 10, 900_000: 10, 3_000_000: 10, 20_000_000: 2}
        size = self.random.choices(list(sizes), list(sizes.values()))[0]
        data = self.random.randbytes(size)
        (self.work / "f").write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def step(self):
        name = f"home{self.number}/n{self.random.randrange(12)}"
        if self.random.random() < 0.7:
            digest = self.content()
            put = self.haul("put", "-q", "--wait=3m", "f", f"{self.server()}:{name}")
            if put.returncode == 0:
                self.known[name] = {digest}
                self.done["put"] += 1
            else:
                # it may have been published, and its answer lost
                self.known.setdefault(name, {None}).add(digest)
                self.done["failed"] += 1
            return
        (self.work / "back").unlink(missing_ok=True)
        got = self.haul("get", "-q", f"{self.server()}:{name}", "back")
        if got.returncode == 0:
            found = hashlib.sha256((self.work / "back").read_bytes()).hexdigest()
            if found not in self.known.get(name, set()):
                self.wrong.append(f"{name} has a content that was not acknowledged")
            else:
                self.known[name] = {found}
            self.done["get"] += 1
        elif "no such file" in got.stderr and None not in self.known.get(name, {None}):
            self.wrong.append(f"{name} is gone: {got.stderr.strip()}")

    def run(self):
        while not self.stop.is_set():
            try:
                self.step()
            except subprocess.TimeoutExpired:
                self.wrong.append("a command took ten minutes")

    def check(self):
        """Everything, once more, when all is calm."""
        for name, may_be in self.known.items():
            (self.work / "back").unlink(missing_ok=True)
            got = self.haul("get", "-q", f"s0:{name}", "back")
            found = None
            if got.returncode == 0:
                found = hashlib.sha256((self.work / "back").read_bytes()).hexdigest()
            if found not in may_be:
                self.wrong.append(f"{name} in the end: {got.stderr.strip() or found}")


def read_by_another(args, wrong):
    """Every entry and blob, read by rclone and compared with its record."""
    with tempfile.TemporaryDirectory() as work:
        copy = peers.rclone(work, "http://127.0.0.11:7480", peers.credentials(args.credentials))
        top = Path(work) / "all"
        subprocess.run([*copy, "copy", f"e:{args.bucket}/{args.prefix}", top],
                       env=peers.without_proxy(), check=True)
        entries = 0
        for path in (top / "f").rglob("*"):
            if not path.is_file() or path.parent.name != "=":
                continue
            line, _, content = path.read_bytes().partition(b"\n")
            record = json.loads(line.split(b" ", 1)[1])
            if record["kind"] != "file":
                continue
            entries += 1
            if "extents" in record:
                content = bytearray(record["size"])
                for extent in record["extents"]:
                    blob = (top / "b" / extent["blob"]).read_bytes()
                    content[extent["at"]:extent["at"] + extent["size"]] = blob[:extent["size"]]
            hashed = blake3.blake3(bytes(content)).hexdigest()
            if len(content) != record.get("size", 0) or hashed != record.get("blake3"):
                wrong.append(f"{path}: not what its record says")
        say(f"{entries} entries were read by another program")


def run(args, servers, work, faults, kinds):
    """Faults while clients work, and then a look at everything; returns what is wrong."""
    chance, stop = faults.chance, threading.Event()
    for server in servers:
        server.start()
    clients = [Client(n, args, work, servers, stop) for n in range(args.clients)]
    for client in clients:
        client.login()
    for client in clients:
        client.start()
    end, waiting = time.monotonic() + args.minutes * 60, []
    while time.monotonic() < end:
        time.sleep(chance.uniform(3, 15))
        # each of them happens before one happens again
        waiting = waiting or chance.sample(kinds, len(kinds))
        kind = waiting.pop()
        say(kind.replace("_", " "))
        faults.happen(kind)
    say("calm")
    stop.set()
    for client in clients:
        client.join()
    time.sleep(30)
    wrong = list(faults.wrong)
    for client in clients:
        client.check()
        wrong += client.wrong
        say(f"client {client.number}: {client.done}, {len(client.known)} names")
    read_by_another(args, wrong)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ceph", required=True)
    parser.add_argument("--credentials", required=True)
    parser.add_argument("--bucket", default="haul")
    parser.add_argument("--prefix", default=f"cluster{os.getpid()}")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--lease", default="60s")
    parser.add_argument("--port", type=int, default=4400)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--faults", default=",".join(Faults.kinds()))
    args = parser.parse_args()
    say(f"seed {args.seed}")
    chance, cluster = random.Random(args.seed), Cluster(args.ceph)
    kinds = args.faults.split(",")
    if "node_cut_off" in kinds and not cluster.binds():
        sys.exit("a node can be cut off where ceph.conf has: ms bind before connect = true")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        servers = [Server(number, args, work) for number in range(args.servers)]
        try:
            wrong = run(args, servers, work, Faults(servers, cluster, chance, say), kinds)
        finally:
            for server in servers:
                server.end()
        for line in wrong:
            say(f"WRONG: {line}")
        say("nothing was lost" if not wrong else f"{len(wrong)} faults")
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
