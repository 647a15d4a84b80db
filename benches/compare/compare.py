#!/usr/bin/env python3
"""Compares haul with its peers in one run: A B A B ..., medians, a table, and every time in a file.

  benches/compare/compare.py [--runs N] [--peers LIST] [--dir DIR] [--durable] [--install] [--out FILE.json] ROW...

See benches/compare/README.md for the rows and what they need.
"""
import argparse, json, os, shutil, statistics, subprocess, sys
from pathlib import Path

from install import install
from peers import ALL, SERVERS, Peer, copies
from place import HAUL, Congestion, Place

MIB = 1 << 20
# Mbit/s and one-way delay in ms
RATE, DELAY = 200, 25
WAN_SIZE = 100 * 10**6
# rows over a link that loses packets, and those in which the rate of the link counts
LOSSY = ("wan-loss", "wan-again")
OF_THE_LINK = ("wan", *LOSSY)


def make_big(source, size):
    with open(source / "big", "wb") as f:
        for at in range(0, size, MIB):
            f.write(os.urandom(min(MIB, size - at)))
    return source / "big"


def make_small(source, count):
    for i in range(count):
        directory = source / "small" / f"{i % max(count // 200, 1):03}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{i:06}").write_bytes(os.urandom(4096))
    return source / "small"


def make_text(source, size):
    """Source files of this machine's Python, again and again under other names, up to `size` bytes."""
    files = sorted(Path(os.__file__).parent.rglob("*.py"))
    for turn in range(100):
        for number, file in enumerate(files):
            target = source / "text" / f"{turn:02}-{number // 100:02}" / f"{number}.py"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            size -= target.stat().st_size
            if size < 0:
                return source / "text"
    return source / "text"


def make_links(source, count):
    """Files of two names each, which are far apart."""
    for i in range(count // 2):
        names = [source / "links" / side / f"{i // 500:03}" / f"{i:06}" for side in ("a", "b")]
        for name in names:
            name.parent.mkdir(parents=True, exist_ok=True)
        names[0].write_bytes(b"content")
        os.link(*names)
    return source / "links"


def make_million(source):
    for d in range(1000):
        directory = source / "million" / f"{d:03}"
        directory.mkdir(parents=True)
        for f in range(1000):
            os.close(os.open(directory / f"{f:03}", os.O_CREAT | os.O_WRONLY))
    return source / "million"


def fresh(place, run):
    """A put into an empty place."""
    def prepared():
        place.clear(place.root, place.back)
        return run()
    return prepared


def there(place, source, run):
    """A get of what is at the server already. A tree is copied there once: memory or disk that has just been written to is
    slower to read on some machines, and whoever comes first would pay for it. A file is there under a second name: a machine whose
    memory is its host's to give gets slower with every GiB that a test keeps beside what it works on."""
    served = place.root / source.name

    def prepared():
        place.clear(place.back)
        if source.is_file() and not (served.exists() and served.samefile(source)):
            served.unlink(missing_ok=True)
            os.link(source, served)
            place.settle()
        elif not served.exists():
            subprocess.run(["cp", "-a", source, place.root], check=True)
            place.settle()
        return run()
    return prepared


def put_get(place, source, peers, whole):
    tools = [Peer(name, place, source, whole) for name in ["haul", *peers]]
    return {
        "put": {tool.name: fresh(place, tool.put) for tool in tools},
        "get": {tool.name: there(place, source, tool.get) for tool in tools},
    }


def unchanged(place, source, peers):
    tools = [Peer(name, place, source, False) for name in ["haul", *(p for p in peers if p.startswith("rsync"))]]
    return {"put, unchanged": {tool.name: tool.put for tool in tools}}


def million(place, source):
    module = f"rsync://{place.host}:8730/m"
    return {
        "ls -R": {"haul": lambda: place.haul("ls", "-R", "srv:"), "rsync": lambda: place.run("rsync", "-r", "--list-only", f"{module}/")},
        "put -r, unchanged": {
            "haul": lambda: place.haul("put", "-rq", source, "srv:"),
            "rsync": lambda: place.run("rsync", "-an", source, f"{module}/"),
        },
    }


def links(place, source):
    """A tree of hard links, preserved."""
    module = f"rsync://{place.host}:8730/m"
    return {
        "put -H": {
            "haul": fresh(place, lambda: place.haul("put", "-aqH", source, "srv:")),
            "rsync": fresh(place, lambda: place.run("rsync", "-aH", source, f"{module}/")),
        }
    }


def rules(place, source):
    """A tree with 10,000 rules, none of which matches."""
    listed = source.parent / "rules"
    listed.write_text("".join(f"/none/{n}/*.{n}\nnone{n}\n" for n in range(5000)))
    module, option = f"rsync://{place.host}:8730/m", f"--exclude-from={listed}"
    return {
        "put": {
            "haul": fresh(place, lambda: place.haul("put", "-aq", option, source, "srv:")),
            "rsync": fresh(place, lambda: place.run("rsync", "-a", option, source, f"{module}/")),
        }
    }


def mirror(place, source):
    """A mirror in which 50,000 entries have to go."""
    module, there = f"rsync://{place.host}:8730/m", place.root / source.name

    def with_old(run):
        def prepared():
            place.clear(place.root)
            subprocess.run(["cp", "-a", source, place.root], check=True)
            for directory in range(100):
                (there / f"old{directory}").mkdir()
                for number in range(499):
                    os.close(os.open(there / f"old{directory}" / str(number), os.O_CREAT | os.O_WRONLY))
            return run()
        return prepared

    return {
        "put --delete": {
            "haul": with_old(lambda: place.haul("put", "-aq", "--delete=yes", f"{source}/", f"srv:{source.name}")),
            "rsync": with_old(lambda: place.run("rsync", "-a", "--delete", f"{source}/", f"{module}/{source.name}/")),
        }
    }


def forgetting(place, tests):
    """haul's transfers of a row, each of which begins as the first one to this server."""
    def forgotten(run):
        def prepared():
            (place.work / "config" / "paths").unlink(missing_ok=True)
            return run()
        return prepared
    for tools in tests.values():
        tools.update({tool: forgotten(run) for tool, run in tools.items() if tool.startswith("haul")})
    return tests


def verbs(place, source):
    numbers = iter(range(10**6))
    return {
        "ls": {"haul": lambda: place.haul("ls", "srv:")},
        "mkdir": {"haul": lambda: place.haul("mkdir", f"srv:d{next(numbers)}")},
        "put of 1 KiB": {"haul": lambda: place.haul("put", "-q", source, f"srv:f{next(numbers)}")},
    }


def first_ls(place):
    """A listing over ssh, from nothing; and what ssh alone takes for a command that does nothing."""
    return {
        "first ls": {
            "haul": lambda: place.run(HAUL, "ls", f"ssh://far{place.root}/"),
            "ssh-true": lambda: place.run("ssh", "far", "true"),
        }
    }


# rows with an option that only rsync has, too
ALONE = {"delete": mirror, "links": links, "rules": rules}


def prepare(row, args, source):
    """The data of a row."""
    if row in ("big", "cp-big"):
        return make_big(source, 2048 * MIB)
    if row == "cp-small":
        return make_small(source, 10000)
    if row == "delete":
        return make_small(source, 1000)
    if row == "links":
        return make_links(source, 100000)
    if row in OF_THE_LINK:
        return make_big(source, WAN_SIZE)
    if row in ("small", "wan-small", "rules"):
        return make_small(source, 1000 if row == "wan-small" else 20000)
    if row in ("text", "wan-text"):
        return make_text(source, 400 * MIB if row == "text" else WAN_SIZE)
    if row in ("random", "wan-random"):
        return make_big(source, 1024 * MIB if row == "random" else WAN_SIZE)
    if row == "million":
        return make_million(source)
    if row == "tree":
        tree = args.tree or subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run(["cp", "-a", tree, source / "tree"], check=True)
        return source / "tree"
    return make_big(source, 1024)


def rows_of(row, args, place, data):
    """The groups of a row's tests; one after another, each finds what the one before has left."""
    peers = [p for p in args.peers if not (row.startswith("wan") and p == "cp")]
    if row == "million":
        subprocess.run(["cp", "-a", data, place.root], check=True)
        return [million(place, data)]
    if row in ALONE:
        return [ALONE[row](place, data)]
    if row.startswith("cp-"):
        tools = {tool: fresh(place, run) for tool, run in copies(place, data).items() if tool in ["haul", *args.peers]}
        return [{"cp": tools}]
    if row == "wan-verbs":
        return [verbs(place, data)]
    if row == "wan-ssh":
        return [first_ls(place)]
    groups = [put_get(place, data, peers, row in ("big", "random", "wan-random", *OF_THE_LINK))]
    if row == "wan-loss":
        groups = [forgetting(place, tests) for tests in groups]
    if row == "tree":
        groups.append(unchanged(place, data, peers))
    return groups


def measure(tests, runs):
    """Medians of each test and tool; the first group's last run leaves the source at the server."""
    for test, tools in tests.items():
        results = {tool: [] for tool in tools}
        for _ in range(runs):
            for tool, run in tools.items():
                results[tool].append(run())
        yield test, results


def report(row, test, results, args, loss):
    medians = {tool: statistics.median(r[0] for r in runs) for tool, runs in results.items()}
    base = medians["haul"]
    ratios = [f"{base / t:.2f} × {tool}" for tool, t in medians.items() if tool != "haul"]
    for own in (tool for tool in ("haul-ssh", "haul-lane") if tool in medians):
        others = [tool for tool in medians if tool in ("haul", "rsync-ssh", "scp")]
        ratios.append(f"{own}: " + ", ".join(f"{medians[own] / medians[tool]:.2f} × {tool}" for tool in others))
    if row in OF_THE_LINK:
        ratios.append(f"{WAN_SIZE * 8 / (RATE * 1e6) / base:.0%} of the link")
    client, server = (max(r[i] for r in results["haul"]) / 1024 for i in (1, 2))
    cpu = {tool: statistics.median(r.cpu for r in runs) for tool, runs in results.items()}
    of_cpu = ", ".join(f"{tool} {seconds:.2f} s" for tool, seconds in cpu.items())
    name = f"{row} {loss} % {args.congestion}" if row in LOSSY else row
    times = ", ".join(f"{tool} {t:.3f} s" for tool, t in medians.items())
    print(f"| {name} | {test} | {times} | {', '.join(ratios)} | {client:.0f} / {server:.0f} MiB | {of_cpu} |", flush=True)
    return {"row": name, "test": test, "medians": medians, "cpu": cpu, "runs": results, "durable": args.durable}


def peers_of(row, args):
    """Whom haul is compared with in a row."""
    if row == "wan-ssh":
        return ["haul-ssh"]
    return ["rsync"] if row == "million" or row in ALONE else [] if row == "wan-verbs" else args.peers


def run_row(row, args, work):
    source = work / "source"
    shutil.rmtree(work, ignore_errors=True)
    source.mkdir(parents=True)
    data = prepare(row, args, source)
    link, congestion = None, None
    if row.startswith("wan"):
        link = ["-r", RATE, "-d", DELAY, "-c", "cubic"] + (["-l", args.loss] if row in LOSSY else [])
        congestion = Congestion(args.congestion)
    servers = list(dict.fromkeys(server for peer in peers_of(row, args) for server in SERVERS.get(peer, [])))
    place = None
    try:
        place = Place(work / "place", args.durable, link, congestion, servers, args.haul_option, args.ciphers)
        for tests in rows_of(row, args, place, data):
            for test, results in measure(tests, args.runs):
                yield report(row, test, results, args, args.loss)
    finally:
        if place:
            place.close()
        if congestion:
            congestion.restore()


def main():
    rows = ["big", "small", "tree", "cp-big", "cp-small", "million", "wan", "wan-loss", "wan-again", "wan-small", "wan-verbs", "wan-ssh"]
    rows += [*ALONE, "text", "random", "wan-text", "wan-random"]
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5, help="[default: 5]")
    parser.add_argument("--peers", type=lambda text: [p for p in text.split(",") if p], default=["rsync", "cp"], help=f"of {','.join(ALL)} [default: rsync,cp]")
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="where everything happens [default: /dev/shm]")
    parser.add_argument("--durable", action="store_true", help="rsync --fsync, and a sync behind cp; with --dir on a disk")
    parser.add_argument("--tree", type=Path, help="a real tree, for the row tree [default: this Rust toolchain]")
    parser.add_argument("--loss", default="0.1", help="percent, for wan-loss and wan-again [default: 0.1]")
    parser.add_argument("--congestion", choices=["bbr", "cubic"], default="bbr", help="what may be used: BBR too, or cubic alone [default: bbr]")
    parser.add_argument("--haul-option", action="append", default=[], help="for haul's put and get, such as --connections=8")
    parser.add_argument("--ciphers", default="aes128-gcm@openssh.com", help="of ssh; '' is ssh's own choice [default: aes128-gcm@openssh.com]")
    parser.add_argument("--install", action="store_true", help="first build haul, and install the peers that are not there")
    parser.add_argument("--out", type=Path, help="every time, as JSON")
    parser.add_argument("rows", nargs="+", choices=rows)
    args = parser.parse_args()
    if unknown := set(args.peers) - set(ALL):
        parser.error(f"no such peer: {', '.join(unknown)}")
    if args.install:
        install(dict.fromkeys(peer for row in args.rows for peer in peers_of(row, args)), args.rows)
    work = args.dir / f"haul-compare-{os.getpid()}"
    everything = []
    try:
        for row in args.rows:
            everything.extend(run_row(row, args, work))
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if args.out:
            args.out.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    sys.exit(main())
