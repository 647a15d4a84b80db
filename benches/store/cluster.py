#!/usr/bin/env python3
"""Servers and clients of haul over a real cluster while parts of it are killed and stopped.

    benches/store/cluster.py --ceph DIR --credentials FILE [--minutes 20] [--servers 3] [--clients 8]

DIR is a cluster of three nodes on this machine: DIR/run has the process ids of each node's monitor,
storage daemon and gateway, DIR/ceph.conf their configuration, and the gateways listen at port 7480
of 127.0.0.11, 127.0.0.12 and 127.0.0.13.

Each client writes into a directory of its own, whose content this script knows, and all write into
one that they share. Meanwhile a server is killed and started anew, stopped for up to 90 s, a node is
killed or stopped, or the requests of a bucket's user are refused for a while. In the end everything
is read through haul and compared with what was acknowledged, and every entry and blob is read by
another program and compared with its record.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import blake3

HAUL = Path(__file__).resolve().parent.parent.parent / "target" / "release" / "haul"
LOG = threading.Lock()


def say(text):
    with LOG:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Server:
    """A server of the bucket, at a port that stays."""

    def __init__(self, number, args, work):
        self.number, self.args, self.work = number, args, work
        self.state = work / f"server{number}"
        self.port = args.port + number
        self.endpoint = f"http://127.0.0.1{number % 3 + 1}:7480"
        self.process = None

    def options(self):
        return ["--store", f"s3://{self.args.bucket}/{self.args.prefix}", "--endpoint",
                self.endpoint, "--credentials", self.args.credentials]

    def start(self):
        log = open(self.work / f"server{self.number}.log", "a")
        for _ in range(30):
            self.process = subprocess.Popen(
                [HAUL, "serve", *self.options(), "--key", self.work / "key", "--lease",
                 self.args.lease, "--state", self.state, "--listen", f"127.0.0.1:{self.port}",
                 "--json"], stdout=subprocess.PIPE, stderr=log, text=True)
            if self.process.stdout.readline():
                return
            self.process.wait()
            time.sleep(2)
        say(f"server {self.number} does not start")

    def signal(self, number):
        self.process.send_signal(number)


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
            code = subprocess.run([HAUL, "invite", f"user{self.number}", "--key",
                                   self.work.parent / "key", *server.options()], text=True,
                                  capture_output=True, check=True).stdout
            subprocess.run([HAUL, "login", f"127.0.0.1:{server.port}", "--name",
                            f"s{server.number}"], env=self.env, input=code, text=True, check=True,
                           capture_output=True)
        self.haul("mkdir", "-p", f"s0:home{self.number}")

    def server(self):
        return f"s{self.random.randrange(len(self.servers))}"

    def content(self):
        sizes = [0, 100, 40_000, 900_000, 3_000_000, 20_000_000, 60_000_000]
        size = self.random.choice([size for size in sizes if size <= self.args.largest])
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


class Nodes:
    """The cluster's processes."""

    def __init__(self, directory):
        self.directory = Path(directory)

    def ids(self, node):
        letter = "abc"[node]
        names = [f"mon.{letter}", f"osd.{node}", f"client.rgw.{node + 1}"]
        found = []
        for name in names:
            file = self.directory / "run" / f"{name}.pid"
            if file.exists():
                found.append(int(file.read_text()))
        return found

    def signal(self, node, number):
        for pid in self.ids(node):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def start(self, node):
        letter, conf = "abc"[node], self.directory / "ceph.conf"
        for command in (["ceph-mon", "-i", letter], ["ceph-osd", "-i", str(node), "--keyring",
                         self.directory / f"osd.{node}" / "keyring"],
                        ["radosgw", "-n", f"client.rgw.{node + 1}"]):
            # a daemon that finds no quorum yet gives up
            for _ in range(10):
                started = subprocess.run([command[0], "-c", conf, *command[1:]],
                                         capture_output=True)
                if started.returncode == 0:
                    break
                time.sleep(2)
            else:
                say(f"{command[0]} does not start: {started.stderr[-200:]}")


def disturb(kind, servers, nodes, chance, args):
    """One thing goes wrong, and is mended."""
    if kind == "server killed":
        server = chance.choice(servers)
        server.signal(signal.SIGKILL)
        server.process.wait()
        time.sleep(chance.uniform(0, 5))
        server.start()
    elif kind == "server stopped":
        server = chance.choice(servers)
        server.signal(signal.SIGSTOP)
        time.sleep(chance.uniform(5, 90))
        server.signal(signal.SIGCONT)
    elif kind == "node killed":
        node = chance.randrange(3)
        nodes.signal(node, signal.SIGKILL)
        time.sleep(chance.uniform(5, 25))
        nodes.start(node)
    elif kind == "node stopped":
        node = chance.randrange(3)
        nodes.signal(node, signal.SIGSTOP)
        time.sleep(chance.uniform(5, 40))
        nodes.signal(node, signal.SIGCONT)
    elif kind == "keys revoked":
        user = ["radosgw-admin", "-c", nodes.directory / "ceph.conf", "user"]
        subprocess.run([*user, "suspend", "--uid", "haul"], capture_output=True)
        time.sleep(chance.uniform(2, 6))
        subprocess.run([*user, "enable", "--uid", "haul"], capture_output=True)


def read_by_another(args, wrong):
    """Every entry and blob, read by rclone and compared with its record."""
    text = Path(args.credentials).read_text()
    value = lambda key: next(line.split("=", 1)[1].strip() for line in text.splitlines()
                             if line.startswith(key))
    with tempfile.TemporaryDirectory() as work:
        config = Path(work) / "rclone.conf"
        config.write_text("[e]\ntype = s3\nprovider = Ceph\nendpoint = http://127.0.0.11:7480\n"
                          f"access_key_id = {value('aws_access_key_id')}\n"
                          f"secret_access_key = {value('aws_secret_access_key')}\n")
        env = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}
        subprocess.run(["rclone", "--config", config, "copy",
                        f"e:{args.bucket}/{args.prefix}", f"{work}/all"], env=env, check=True)
        entries = 0
        for path in (Path(work) / "all" / "f").rglob("*"):
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
                    blob = (Path(work) / "all" / "b" / extent["blob"]).read_bytes()
                    content[extent["at"]:extent["at"] + extent["size"]] = blob[:extent["size"]]
            hashed = blake3.blake3(bytes(content)).hexdigest()
            if len(content) != record.get("size", 0) or hashed != record.get("blake3"):
                wrong.append(f"{path}: not what its record says")
        say(f"{entries} entries were read by another program")


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
    # what is replaced stays for a day: 20 minutes with the largest files need 60 GB
    parser.add_argument("--largest", type=int, default=60_000_000)
    parser.add_argument("--lease", default="60s")
    parser.add_argument("--port", type=int, default=4400)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--disturb", default="server killed,server stopped,node killed,"
                                             "node stopped,keys revoked")
    args = parser.parse_args()
    say(f"seed {args.seed}")
    chance, nodes, stop = random.Random(args.seed), Nodes(args.ceph), threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        servers = [Server(number, args, work) for number in range(args.servers)]
        for server in servers:
            server.start()
        clients = [Client(n, args, work, servers, stop) for n in range(args.clients)]
        for client in clients:
            client.login()
        for client in clients:
            client.start()
        end, kinds = time.monotonic() + args.minutes * 60, args.disturb.split(",")
        while time.monotonic() < end:
            time.sleep(chance.uniform(5, 25))
            kind = chance.choice(kinds)
            say(kind)
            disturb(kind, servers, nodes, chance, args)
        say("calm")
        stop.set()
        for client in clients:
            client.join()
        time.sleep(30)
        wrong = []
        for client in clients:
            client.check()
            wrong += client.wrong
            say(f"client {client.number}: {client.done}, {len(client.known)} names")
        read_by_another(args, wrong)
        for server in servers:
            server.process.terminate()
            server.process.wait()
        for line in wrong:
            say(f"WRONG: {line}")
        say("nothing was lost" if not wrong else f"{len(wrong)} faults")
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
