#!/usr/bin/env python3
"""Measures haul over an object store beside rclone and s5cmd, on the same engine in one run.

    benches/store/bench.py --endpoint URL[,URL…] --credentials FILE [--rounds N] [--rows …]

Each peer reads the same files of a disk and writes to the same bucket. haul goes through a server
that serves the bucket; rclone and s5cmd speak to the engine themselves. The peers take turns within
a round; the table has the medians.
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

HERE = Path(__file__).resolve().parent
HAUL = HERE.parent.parent / "target" / "release" / "haul"


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
        code = subprocess.run([HAUL, "invite", "bench", *bucket, "--key", self.work / "key"], text=True, check=True,
                              capture_output=True, env=self.env).stdout
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
        config = Path(work) / "rclone.conf"
        config.write_text(f"[e]\ntype = s3\nprovider = Ceph\nendpoint = {endpoint}\n"
                          f"access_key_id = {args.id}\nsecret_access_key = {args.secret}\n")
        # a proxy's certificates are no concern of an engine on this machine
        self.env = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}
        self.base = f"e:{args.bucket}/rclone"
        self.command = ["rclone", "--config", config]

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
        self.env = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}
        self.env.update(AWS_ACCESS_KEY_ID=args.id, AWS_SECRET_ACCESS_KEY=args.secret,
                        AWS_REGION="us-east-1")
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
    one, small = data / "one", data / "small"
    if not one.exists():
        one.mkdir(parents=True)
        with open(one / "file", "wb") as file:
            for _ in range(1024):
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
    return {"1g": one, "2000x4k": small, "list": tree}


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


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--credentials", required=True)
    parser.add_argument("--bucket", default="haul")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "haul-store-data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default="1g,2000x4k,list")
    parser.add_argument("--peers", default="haul,rclone,s5cmd")
    parser.add_argument("--listed", type=int, default=100_000)
    parser.add_argument("--s5cmd", default="s5cmd")
    args = parser.parse_args()
    text = Path(args.credentials).read_text()
    value = lambda key: re.search(rf"{key}\s*=\s*(\S+)", text).group(1)
    args.id, args.secret = value("aws_access_key_id"), value("aws_secret_access_key")
    endpoint = args.endpoint.split(",")[0]
    trees = generate(args.data, args.listed)
    with tempfile.TemporaryDirectory() as work:
        make = {"haul": lambda: Haul(work, args, [endpoint]),
                "rclone": lambda: Rclone(work, args, endpoint),
                "s5cmd": lambda: S5cmd(work, args, endpoint)}
        peers = [make[name]() for name in args.peers.split(",")]
        results = {}
        try:
            for row in args.rows.split(","):
                if row == "list":
                    for peer in peers:
                        peer.make("list")
                        peer.put(f"{trees[row]}/" if peer.name == "haul" else trees[row], "list")
                for number in range(args.rounds):
                    for peer in peers:
                        for part, seconds in measure(peer, row, trees[row], args.data).items():
                            results.setdefault((row, part), {}).setdefault(peer.name, [])
                            results[row, part][peer.name].append(seconds)
                            print(f"# {row} {part} {peer.name} {seconds:.2f}", flush=True)
            print(f"| {'work':<20} | " + " | ".join(f"{p.name:>8}" for p in peers) + " |")
            for (row, part), times in results.items():
                cells = [f"{statistics.median(times[p.name]):8.2f}" if p.name in times else " " * 8
                         for p in peers]
                print(f"| {row + ' ' + part:<20} | " + " | ".join(cells) + " |")
            for peer in peers:
                if peer.name == "haul":
                    peak, cpu = peer.memory()
                    print(f"haul's server: {peak:.0f} MiB at most, {cpu:.1f} s of CPU")
        finally:
            for peer in peers:
                peer.end()


if __name__ == "__main__":
    main()
