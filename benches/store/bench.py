#!/usr/bin/env python3
"""Measures haul over an object store beside rclone and s5cmd, on the same engine in one run.

    benches/store/bench.py --endpoint URL[,URL…] --credentials FILE [--rounds N] [--rows …]

Each peer reads the same files of a disk and writes to the same bucket. haul goes through a server
that serves the bucket; rclone and s5cmd speak to the engine themselves. The peers take turns
within a round; the table has the medians.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers
from servers import HAUL



def run(command, env=None, check=True):
    """Runs a command; returns the seconds it took."""
    began = time.monotonic()
    done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True)
    if check and done.returncode != 0:
        sys.exit(f"{command}: {done.stdout}{done.stderr}")
    return time.monotonic() - began


class Haul:
    """Servers of a bucket, and a client of the first one."""

    def __init__(self, work, args, endpoints):
        self.name = "haul"
        self.work = Path(work)
        self.env = dict(os.environ, XDG_CONFIG_HOME=str(self.work / "config"),
                        XDG_STATE_HOME=str(self.work / "state"))
        self.servers = []
        for number, endpoint in enumerate(endpoints):
            self.servers.append(self.serve(number, endpoint, args))
        self.prefix = "srv0:"

    def serve(self, number, endpoint, args):
        state = self.work / f"server{number}"
        bucket = ["--store", f"s3://{args.bucket}/bench", "--endpoint", endpoint, "--credentials",
                  args.credentials, "--state", state]
        process = subprocess.Popen(
            [HAUL, "serve", *bucket, "--key", self.work / "key", "--listen", "127.0.0.1:0",
             "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.env)
        address = json.loads(process.stdout.readline())["address"]
        code = subprocess.run([HAUL, "invite", "bench", *bucket, "--key", self.work / "key"],
                              text=True, check=True, capture_output=True, env=self.env).stdout
        subprocess.run([HAUL, "login", address, "--name", f"srv{number}"], input=code, text=True,
                       check=True, env=self.env, capture_output=True)
        return process

    def put(self, tree, name):
        return run([HAUL, "put", "-q", "-r", tree, f"{self.prefix}{name}"], self.env)

    def get(self, name, to):
        return run([HAUL, "get", "-q", "-r", "--no-fsync", f"{self.prefix}{name}", to], self.env)

    def list(self, name):
        return run([HAUL, "ls", "-lR", f"{self.prefix}{name}"], self.env)

    def make(self, name):
        run([HAUL, "mkdir", "-p", f"{self.prefix}{name}"], self.env)

    def remove(self, name):
        run([HAUL, "rm", "-r", f"{self.prefix}{name}"], self.env, check=False)

    def at_once(self, transfers):
        """Runs puts and gets at the same time, each `(verb, from, to)`; returns the seconds."""
        began = time.monotonic()
        running = [subprocess.Popen([HAUL, verb, "-q", "-r", "--no-fsync", *map(str, places)],
                                    env=self.env) for verb, *places in transfers]
        if any([process.wait() for process in running]):
            sys.exit("a transfer failed")
        return time.monotonic() - began

    def memory(self):
        """The server's memory at most so far, and its CPU seconds."""
        pid = self.servers[0].pid
        status = Path(f"/proc/{pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024
        times = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return peak, (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        for server in self.servers:
            server.terminate()
            server.wait()


class Rclone:
    """rclone, with its defaults but for the settings of the engine."""

    def __init__(self, work, args, endpoint):
        self.name = "rclone"
        self.env = peers.without_proxy()
        self.base = f"e:{args.bucket}/rclone"
        self.command = peers.rclone(work, endpoint, args.keys)

    def put(self, tree, name):
        return run([*self.command, "copy", tree, f"{self.base}/{name}"], self.env)

    def get(self, name, to):
        return run([*self.command, "copy", f"{self.base}/{name}", to], self.env)

    def list(self, name):
        return run([*self.command, "lsl", f"{self.base}/{name}"], self.env)

    def make(self, name):
        pass

    def remove(self, name):
        run([*self.command, "purge", f"{self.base}/{name}"], self.env, check=False)

    def end(self):
        pass


class S5cmd:
    """s5cmd, with its defaults."""

    def __init__(self, work, args, endpoint):
        self.name = "s5cmd"
        self.env = dict(peers.without_proxy(), AWS_ACCESS_KEY_ID=args.keys[0],
                        AWS_SECRET_ACCESS_KEY=args.keys[1], AWS_REGION="us-east-1")
        self.command = [args.s5cmd, "--endpoint-url", endpoint]
        self.base = f"s3://{args.bucket}/s5cmd"

    def put(self, tree, name):
        return run([*self.command, "cp", f"{tree}/", f"{self.base}/{name}/"], self.env)

    def get(self, name, to):
        return run([*self.command, "cp", f"{self.base}/{name}/*", f"{to}/"], self.env)

    def list(self, name):
        return run([*self.command, "ls", f"{self.base}/{name}/*"], self.env)

    def make(self, name):
        pass

    def remove(self, name):
        run([*self.command, "rm", f"{self.base}/{name}/*"], self.env, check=False)

    def end(self):
        pass


def generate(data, listed):
    """Files of random bytes on the disk; a tree for the listings in memory is enough."""
    one, quarter, small = data / "one", data / "quarter", data / "small"
    for tree, mebibytes in ((one, 1024), (quarter, 256)):
        if not tree.exists():
            tree.mkdir(parents=True)
            with open(tree / "file", "wb") as file:
                for _ in range(mebibytes):
                    file.write(os.urandom(1 << 20))
    if not small.exists():
        small.mkdir()
        for number in range(2000):
            (small / f"f{number:04}").write_bytes(os.urandom(4096))
    tree = data / "listed"
    if not tree.exists():
        for directory in range(listed // 1000):
            (tree / f"d{directory:03}").mkdir(parents=True)
            for number in range(1000):
                (tree / f"d{directory:03}" / f"f{number:03}").write_bytes(b"x")
    return {"1g": one, "256m": quarter, "2000x4k": small, "list": tree}


def measure(peer, row, tree, data):
    """The seconds of each part of a row."""
    times = {}
    back = data / "back"
    shutil.rmtree(back, ignore_errors=True)
    if row == "list":
        times["ls -R"] = peer.list("list")
        return times
    peer.remove(row)
    peer.make(row)
    times["put"] = peer.put(f"{tree}/" if peer.name == "haul" else tree, row)
    if row == "2000x4k":
        times["unchanged"] = peer.put(f"{tree}/" if peer.name == "haul" else tree, row)
    back.mkdir()
    times["get"] = peer.get(f"{row}/" if peer.name == "haul" else row, back)
    sizes = lambda top: sorted(p.stat().st_size for p in Path(top).rglob("*") if p.is_file())
    assert sizes(back) == sizes(tree), f"{peer.name}: {row} came back with other files"
    return times


def two_servers(haul, trees, rounds):
    """Two clients at once: of one server, and of two."""
    for row in ("256m", "2000x4k"):
        times = {1: [], 2: []}
        for _ in range(rounds):
            for servers, seconds in times.items():
                targets = [f"srv{n % servers}:two{n}" for n in range(2)]
                for name in ("two0", "two1"):
                    haul.remove(name)
                    haul.make(name)
                seconds.append(haul.at_once([("put", f"{trees[row]}/", to) for to in targets]))
        one, two = (statistics.median(times[n]) for n in (1, 2))
        print(f"{row}, two puts at once: one server {one:.2f} s, two servers {two:.2f} s, "
              f"{one / two:.2f} x")


def sessions(make, trees, data, most):
    """The server's memory with one session, and with more; each puts and gets 256 MiB."""
    for count in (1, most):
        haul = make()
        try:
            for n in range(count):
                haul.remove(f"many{n}")
                haul.make(f"many{n}")
            haul.at_once([("put", f"{trees['256m']}/", f"srv0:many{n}") for n in range(count)])
            put = haul.memory()[0]
            haul.at_once([("get", f"srv0:many{n}/", data / f"back{n}") for n in range(count)])
            print(f"{count} sessions: the server has {put:.0f} MiB at most in puts, "
                  f"{haul.memory()[0]:.0f} MiB after gets")
        finally:
            for n in range(count):
                haul.remove(f"many{n}")
                shutil.rmtree(data / f"back{n}", ignore_errors=True)
            haul.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--credentials", required=True)
    parser.add_argument("--bucket", default="haul")
    parser.add_argument("--data", type=Path,
                        default=Path(tempfile.gettempdir()) / "haul-store-data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default="1g,2000x4k,list")
    parser.add_argument("--peers", default="haul,rclone,s5cmd")
    parser.add_argument("--listed", type=int, default=100_000)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--s5cmd", default="s5cmd")
    args = parser.parse_args()
    args.keys = peers.credentials(args.credentials)
    endpoint = args.endpoint.split(",")[0]
    trees = generate(args.data, args.listed)
    with tempfile.TemporaryDirectory() as work:
        make = {"haul": lambda: Haul(work, args, [endpoint]),
                "rclone": lambda: Rclone(work, args, endpoint),
                "s5cmd": lambda: S5cmd(work, args, endpoint)}
        if args.rows == "two":
            haul = Haul(work, args, args.endpoint.split(","))
            two_servers(haul, trees, args.rounds)
            return haul.end()
        if args.rows == "sessions":
            return sessions(make["haul"], trees, args.data, args.sessions)
        measured = [make[name]() for name in args.peers.split(",")]
        results = {}
        try:
            for row in args.rows.split(","):
                if row == "list":
                    for peer in measured:
                        peer.make("list")
                        peer.put(f"{trees[row]}/" if peer.name == "haul" else trees[row], "list")
                for number in range(args.rounds):
                    for peer in measured:
                        for part, seconds in measure(peer, row, trees[row], args.data).items():
                            results.setdefault((row, part), {}).setdefault(peer.name, [])
                            results[row, part][peer.name].append(seconds)
                            print(f"# {row} {part} {peer.name} {seconds:.2f}", flush=True)
            print(f"| {'work':<20} | " + " | ".join(f"{p.name:>8}" for p in measured) + " |")
            for (row, part), times in results.items():
                cells = [f"{statistics.median(times[p.name]):8.2f}" if p.name in times else " " * 8
                         for p in measured]
                print(f"| {row + ' ' + part:<20} | " + " | ".join(cells) + " |")
            for peer in measured:
                if peer.name == "haul":
                    peak, cpu = peer.memory()
                    print(f"haul's server: {peak:.0f} MiB at most, {cpu:.1f} s of CPU")
        finally:
            for peer in measured:
                peer.end()


if __name__ == "__main__":
    main()
