#!/usr/bin/env python3
"""Measures how haul's cost grows with the number of files, the size of a file and the clients.

    benches/many/growth.py [--rows files,size,sparse,clients] [--most N] [--dir DIR] [--svg FILE]

Needs a release build, and for the largest points some 11 GiB beneath DIR (/dev/shm). Each point is
one transfer (the best of several for the small ones) to a new server: its seconds, and the
processor seconds of client and server. `--svg` draws them; a cost that grows in proportion is
parallel to the dashed line.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import plot
from many import Place

GIB = 1 << 30


def server_cpu(place):
    times = Path(f"/proc/{place.server.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def run(place, commands):
    """Runs clients at once; returns the seconds, and the processor seconds of both sides."""
    before, began = server_cpu(place), time.monotonic()
    running = [place.start(number, *command) for number, command in enumerate(commands)]
    cpu = 0.0
    for process in running:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"a client failed: {process.stderr.read()}")
        process.stderr.close()
        cpu += usage.ru_utime + usage.ru_stime
    return time.monotonic() - began, cpu + server_cpu(place) - before


def files(place, count):
    """Small files, a hundred to a directory."""
    tree = place.work / "tree"
    for directory in range((count + 99) // 100):
        under = tree / f"d{directory // 100:02}" / f"e{directory % 100:02}"
        under.mkdir(parents=True)
        for number in range(min(100, count - directory * 100)):
            (under / f"f{number:02}").write_bytes(b"x" * 100)
    return [("put", "-q", "-r", "--no-fsync", tree, "srv:")]


def size(place, length):
    """A file of data."""
    source = place.work / "file"
    piece = os.urandom(1 << 20)
    with open(source, "wb") as file:
        for _ in range(length >> 20):
            file.write(piece)
    return [("put", "-q", "--no-fsync", source, "srv:")]


def sparse(place, length):
    """A file that has a page of data in each 16 MiB, and holes besides."""
    source = place.work / "file"
    with open(source, "wb") as file:
        for at in range(0, length, 16 << 20):
            file.seek(at)
            file.write(b"x" * 4096)
        file.truncate(length)
    return [("put", "-q", "--no-fsync", source, "srv:")]


def clients(place, count):
    """Clients that put 4 MiB each at once."""
    source = place.work / "file"
    source.write_bytes(os.urandom(4 << 20))
    return [("put", "-q", "--no-fsync", source, f"srv:f{number}") for number in range(count)]


ROWS = {
    "files": ("files of 100 bytes", files, [10 ** n for n in range(3, 7)]),
    "size": ("MiB of data in a file", size, [(1 << n) << 20 for n in range(0, 13, 2)]),
    "sparse": ("MiB of a sparse file", sparse, [(1 << n) << 20 for n in range(0, 17, 2)]),
    "clients": ("clients that put 4 MiB each", clients, [1, 4, 16, 64, 256]),
}


def measure(args, prepare, amount):
    """The cheapest of some runs."""
    found = []
    while len(found) < 3 and (not found or found[-1][0] < 5):
        with tempfile.TemporaryDirectory(dir=args.dir) as work:
            place = Place(Path(work), 1)
            try:
                found.append(run(place, prepare(place, amount)))
            finally:
                place.end()
    return min(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--most", type=int, help="no point has more (bytes, files, clients)")
    parser.add_argument("--dir", default="/dev/shm")
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    panels = []
    for row in args.rows.split(","):
        text, prepare, amounts = ROWS[row]
        scale = 1 << 20 if row in ("size", "sparse") else 1
        points = []
        for amount in amounts:
            if args.most and amount > args.most:
                break
            seconds, cpu = measure(args, prepare, amount)
            points.append((amount // scale, seconds, cpu))
            print(f"{row:<8} {amount // scale:>8} {text}: {seconds:.2f} s, "
                  f"processors {cpu:.2f} s", flush=True)
        panels.append((text, points))
    if args.svg:
        args.svg.write_text(plot.svg(panels))


if __name__ == "__main__":
    main()
