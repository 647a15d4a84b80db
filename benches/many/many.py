#!/usr/bin/env python3
"""Measures a haul server with many clients at once.

    benches/many/many.py [--rows ls,puts,latency,fairness] [--clients N] [--dir DIR]

Needs a release build. Everything is beneath DIR (/dev/shm), and goes away in the end. Each row says
what failed; a row in which nothing may fail ends with an error otherwise.
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

HAUL = Path(__file__).resolve().parent.parent.parent / "target" / "release" / "haul"


class Place:
    """A server, users, and a client for each of them."""

    def __init__(self, work, users):
        self.work, self.root = work, work / "served"
        self.root.mkdir()
        self.server = subprocess.Popen(
            [HAUL, "serve", "--listen", "127.0.0.1:0", "--json", "--state", work / "state",
             self.root], stdout=subprocess.PIPE, stderr=open(work / "log", "w"), text=True)
        address = json.loads(self.server.stdout.readline())["address"]
        self.envs = []
        for user in range(users):
            home = work / f"user{user}"
            env = dict(os.environ, XDG_CONFIG_HOME=str(home / "config"),
                       XDG_STATE_HOME=str(home / "state"))
            code = subprocess.run([HAUL, "invite", f"user{user}", "--state", work / "state"],
                                  check=True, capture_output=True, text=True).stdout
            subprocess.run([HAUL, "login", address, "--name", "srv"], env=env, input=code,
                           check=True, capture_output=True, text=True)
            self.envs.append(env)

    def start(self, number, *command):
        return subprocess.Popen([HAUL, *map(str, command)], env=self.envs[number % len(self.envs)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def memory(self):
        """The server's memory in MiB: now, and at most."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        read = lambda key: int(re.search(rf"{key}:\s+(\d+)", status).group(1)) / 1024
        return read("VmRSS"), read("VmHWM")

    def end(self):
        self.server.terminate()
        self.server.wait()


def all_of(running):
    """Waits for processes; returns the errors of those that failed."""
    failed = []
    for process in running:
        error = process.communicate()[1]
        if process.returncode != 0:
            failed.append(error.strip())
    return failed


def timed(work):
    began = time.monotonic()
    failed = work()
    return time.monotonic() - began, failed


def report(row, text, failed):
    print(f"{row:<10} {text}", flush=True)
    if failed:
        print(f"{row:<10} {len(failed)} failed: {failed[0]}", flush=True)
    return bool(failed)


def ls(place, count):
    """Clients that list at once, against the same number one after another."""
    (place.root / "dir").mkdir()
    for number in range(100):
        (place.root / "dir" / f"f{number}").write_bytes(b"x")
    one = lambda: [e for n in range(count) for e in all_of([place.start(n, "ls", "srv:dir")])]
    many = lambda: all_of([place.start(n, "ls", "srv:dir") for n in range(count)])
    alone, failed = timed(one)
    together, more = timed(many)
    text = f"{count} at once {together:.2f} s, one after another {alone:.2f} s"
    return report("ls", f"{text}: {together / alone:.2f} x", failed + more)


def puts(place, count, size=40_000_000):
    """Clients that put a file each at once, against one that puts all of them."""
    tree = place.work / "tree"
    tree.mkdir()
    data = os.urandom(size)
    for number in range(count):
        (tree / f"f{number}").write_bytes(data)
    del data
    alone, failed = timed(lambda: all_of([place.start(0, "put", "-q", "-r", "--no-fsync", tree,
                                                      "srv:")]))
    shutil.rmtree(place.root / "tree")
    (place.root / "many").mkdir()
    many = lambda: all_of([place.start(n, "put", "-q", "--no-fsync", tree / f"f{n}", "srv:many/")
                           for n in range(count)])
    together, more = timed(many)
    shutil.rmtree(place.root / "many")
    shutil.rmtree(tree)
    now, most = place.memory()
    text = f"{count} x {size // 1_000_000} MB at once {together:.2f} s, by one client {alone:.2f} s"
    return report("puts", f"{text}: {together / alone:.2f} x; the server has {now:.0f} MiB, "
                          f"{most:.0f} at most", failed + more)


def stop(running):
    for process in running:
        process.terminate()
    for process in running:
        process.communicate()


def latency(place, count, bulks=8):
    """The time of `ls` while bulk transfers run."""
    (place.root / "few").mkdir()
    (place.root / "few" / "f").write_bytes(b"x")
    fed = feed(place, bulks)
    time.sleep(2)
    times, failed = [], []
    for number in range(count):
        seconds, errors = timed(lambda: all_of([place.start(number, "ls", "srv:few")]))
        times.append(seconds * 1000)
        failed += errors
    stop(fed)
    times.sort()
    p99 = times[min(len(times) - 1, len(times) * 99 // 100)]
    return report("latency", f"ls beside {bulks} bulk transfers: median "
                             f"{statistics.median(times):.0f} ms, p99 {p99:.0f} ms", failed)


def feed(place, count):
    """Puts from streams without an end."""
    running = []
    for number in range(count):
        source = open("/dev/zero", "rb")
        running.append(subprocess.Popen(
            [HAUL, "put", "-q", "--no-fsync", "-", f"srv:bulk{number}"],
            env=place.envs[number % len(place.envs)], stdin=source, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True))
    return running


def received(place, number):
    """Bytes of a stream that the server has."""
    found = [p.stat().st_blocks * 512 for p in place.root.glob(f".bulk{number}~*.haul")]
    return max(found, default=0)


def fairness(place, count, seconds=6):
    """What each of many bulk transfers moves in the same time."""
    fed = feed(place, count)
    time.sleep(1)
    before = [received(place, n) for n in range(count)]
    time.sleep(seconds)
    moved = [received(place, n) - b for n, b in enumerate(before)]
    stop(fed)
    for path in place.root.glob(".bulk*"):
        path.unlink(missing_ok=True)
    mean = statistics.mean(moved) or 1
    least, most = min(moved) / mean, max(moved) / mean
    waiting = sum(1 for m in moved if m == 0)
    return report("fairness", f"{count} bulk transfers: the least {least:.2f}, the most {most:.2f} "
                              f"of the mean of {mean / seconds / 1e6:.0f} MB/s; {waiting} waited",
                  [])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="ls,puts,latency,fairness")
    parser.add_argument("--clients", type=int, help="in place of 1000, 200, 200 and 32")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--dir", default="/dev/shm")
    args = parser.parse_args()
    rows = {"ls": (ls, 1000), "puts": (puts, 200), "latency": (latency, 200),
            "fairness": (fairness, 32)}
    failed = False
    for row in args.rows.split(","):
        measure, count = rows[row]
        with tempfile.TemporaryDirectory(dir=args.dir) as work:
            place = Place(Path(work), args.users)
            try:
                failed |= measure(place, args.clients or count)
            finally:
                place.end()
    sys.exit(failed)


if __name__ == "__main__":
    main()
