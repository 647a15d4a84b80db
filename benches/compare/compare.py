#!/usr/bin/env python3
"""Compares haul with rsync, cp and the rate of the link, in one run: A B A B ..., medians.

  benches/compare/compare.py [--runs N] [--dir DIR] [--durable] [--out FILE.json] ROW...

See benches/compare/README.md for the rows. Needs a release build and rsync; the wan rows need root and benches/wanlink.
"""
import argparse, json, os, shutil, signal, statistics, subprocess, sys, time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
HAUL = TOP / "target/release/haul"
WANLINK = TOP / "benches/wanlink/target/release/wanlink"
MIB = 1 << 20


def sh(args, **more):
    return subprocess.run([str(a) for a in args], check=True, stdout=subprocess.DEVNULL, **more)


def timed(args, env=None):
    """Seconds that a command takes; it must succeed."""
    started = time.monotonic()
    sh(args, env=env)
    return time.monotonic() - started


class Place:
    """A haul server and an rsync daemon over the same directory, reached directly or over a link."""

    def __init__(self, work, durable, link=None):
        self.work, self.durable = work, durable
        self.root, self.back = work / "root", work / "back"
        for d in (self.root, self.back, work / "config"):
            d.mkdir(parents=True, exist_ok=True)
        self.children, self.near, self.host = [], [], "127.0.0.1"
        far = []
        if link is not None:
            child = subprocess.Popen([str(WANLINK), *link, "cmp"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert child.stdout.readline() == "ready\n"
            self.children.append(child)
            self.near, far, self.host = ["ip", "netns", "exec", "cmp-a"], ["ip", "netns", "exec", "cmp-b"], "10.77.0.2"
        serve = [*far, HAUL, "serve", "--json", "--listen", f"{self.host}:0", "--state", work / "state", self.root]
        server = subprocess.Popen([str(a) for a in serve], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.children.append(server)
        self.address = json.loads(server.stdout.readline())["address"]
        self.env = dict(os.environ, HAUL_CONFIG_DIR=str(work / "config"))
        invite = subprocess.run([HAUL, "invite", "bench", "--state", work / "state"], check=True, capture_output=True).stdout
        login = [*self.near, HAUL, "login", "--name", "srv", self.address]
        sh(login, input=invite, env=self.env, stderr=subprocess.DEVNULL)
        conf = work / "rsyncd.conf"
        conf.write_text(f"use chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n[m]\npath = {self.root}\nread only = no\n")
        daemon = [*far, "rsync", "--daemon", "--no-detach", f"--config={conf}", "--port=8730", f"--address={self.host}"]
        self.children.append(subprocess.Popen(daemon, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(0.5)
        self.module = f"rsync://{self.host}:8730/m"

    def close(self):
        for child in reversed(self.children):
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            child.wait()

    def clear(self):
        for d in (self.root, self.back):
            for entry in d.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if self.durable:
            os.sync()

    def haul(self, *args):
        return timed([*self.near, HAUL, *args], env=self.env)

    def rsync(self, *args):
        fsync = ["--fsync"] if self.durable else []
        return timed([*self.near, "rsync", "-a", *fsync, *args])


def make_big(d, size):
    d.mkdir(parents=True, exist_ok=True)
    with open(d / "big", "wb") as f:
        for _ in range(size // MIB):
            f.write(os.urandom(MIB))


def make_small(d, count):
    for i in range(count):
        sub = d / "small" / f"{i % max(count // 200, 1):03}"
        sub.mkdir(parents=True, exist_ok=True)
        (sub / f"{i:06}").write_bytes(os.urandom(4096))


def put_get(place, source, name, whole):
    """Rounds of put and get by haul, rsync and cp, of a directory or file."""
    flags = ["-W"] if whole else []
    recursive = ["-r"] if (source / name).is_dir() else []
    def haul_put():
        place.clear()
        return place.haul("put", "-q", *recursive, source / name, "srv:")
    def rsync_put():
        place.clear()
        return place.rsync(*flags, source / name, place.module + "/")
    def cp():
        place.clear()
        started = time.monotonic()
        sh(["cp", "-a", source / name, place.root])
        if place.durable:
            os.sync()
        return time.monotonic() - started
    def haul_get():
        place.clear()
        sh(["cp", "-a", source / name, place.root])
        return place.haul("get", "-q", *recursive, f"srv:{name}", place.back)
    def rsync_get():
        place.clear()
        sh(["cp", "-a", source / name, place.root])
        return place.rsync(*flags, f"{place.module}/{name}", f"{place.back}/")
    return {"put": {"haul": haul_put, "rsync": rsync_put, "cp": cp}, "get": {"haul": haul_get, "rsync": rsync_get, "cp": cp}}


def again(place, source, name):
    place.clear()
    sh(["cp", "-a", source / name, place.root])
    return {"unchanged put": {
        "haul": lambda: place.haul("put", "-rq", source / name, "srv:"),
        "rsync": lambda: place.rsync(source / name, place.module + "/"),
    }}


def measure(rows, runs):
    results = []
    for row, tools in rows.items():
        times = {tool: [] for tool in tools}
        for _ in range(runs):
            for tool, run in tools.items():
                times[tool].append(run())
        medians = {tool: statistics.median(t) for tool, t in times.items()}
        results.append((row, medians, times))
    return results


def main():
    rows = ["big", "small", "tree", "wan", "wan-loss", "wan-small", "wan-verbs"]
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--durable", action="store_true")
    parser.add_argument("--tree", type=Path, help="a real tree, for the row tree")
    parser.add_argument("--loss", default="0.1")
    parser.add_argument("--congestion", default="cubic")
    parser.add_argument("--out", type=Path)
    parser.add_argument("rows", nargs="+", choices=rows)
    args = parser.parse_args()
    work = args.dir / f"haul-compare-{os.getpid()}"
    everything = []
    try:
        for row in args.rows:
            shutil.rmtree(work, ignore_errors=True)
            source = work / "source"
            link = None
            if row.startswith("wan"):
                link = ["-r", "200", "-d", "25", "-c", args.congestion]
                link += ["-l", args.loss] if row == "wan-loss" else []
            if row == "big":
                make_big(source, 2048 * MIB)
            elif row == "small":
                make_small(source, 20000)
            elif row == "wan-small":
                make_small(source, 1000)
            elif row in ("wan", "wan-loss"):
                make_big(source, 95 * MIB)
            elif row == "wan-verbs":
                source.mkdir(parents=True)
                (source / "one").write_bytes(os.urandom(1024))
            place = Place(work / "place", args.durable, link)
            try:
                if row == "tree":
                    source, name = args.tree.parent, args.tree.name
                    tests = put_get(place, source, name, False)
                    results = measure(tests, args.runs) + measure(again(place, source, name), args.runs)
                elif row == "wan-verbs":
                    n = iter(range(10**6))
                    tests = {
                        "ls": {"haul": lambda: place.haul("ls", "srv:")},
                        "mkdir": {"haul": lambda: place.haul("mkdir", f"srv:d{next(n)}")},
                        "put of 1 KiB": {"haul": lambda: place.haul("put", "-q", source / "one", f"srv:f{next(n)}")},
                    }
                    results = measure(tests, args.runs)
                else:
                    name = "big" if (source / "big").exists() else "small"
                    tests = put_get(place, source, name, name == "big")
                    if link is not None:
                        for tools in tests.values():
                            tools.pop("cp")
                    if row == "wan-loss":
                        for tools in tests.values():
                            tools.pop("rsync")
                    results = measure(tests, args.runs)
            finally:
                place.close()
            for test, medians, times in results:
                base = medians["haul"]
                line = f"| {row} | {test} | " + " | ".join(f"{tool} {t:.3f} s" for tool, t in medians.items())
                ratios = [f"{base / t:.2f} x {tool}" for tool, t in medians.items() if tool != "haul"]
                if row in ("wan", "wan-loss"):
                    ratios.append(f"{95 * MIB * 8 / 200e6 / base:.0%} of the link")
                print(line + " | " + ", ".join(ratios) + " |", flush=True)
                everything.append({"row": row, "test": test, "medians": medians, "times": times, "durable": args.durable})
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if args.out:
            args.out.write_text(json.dumps(everything, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
