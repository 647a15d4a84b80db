"""How haul and each of its peers puts and gets one file or tree, in its fastest usual setting."""
import os, resource, subprocess, time

from place import HAUL, Spent, TOP

# the servers that a peer needs
SERVERS = {"rsync": ["rsync"], "rsync-nosync": ["rsync"], "rsync-z": ["rsync"], "rsync-ssh": ["sshd"], "scp": ["sshd"], "qcp": ["sshd"], "rcp": ["sshd"], "lftp": ["vsftpd"], "haul-ssh": ["sshd"], "haul-lane": ["sshd"]}
ALL = ["haul-raw", "haul-z", "haul-ssh", "haul-lane", "rsync", "rsync-nosync", "rsync-z", "cp", "rsync-ssh", "scp", "lftp", "rcp", "qcp", "pipe", "pipe-keep"]
PIPE = TOP / "target/release/examples/pipe"


def copy(source, target, durable=False):
    """cp -a, and with `durable` a sync."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["cp", "-a", source, target], check=True)
    if durable:
        os.sync()
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(seconds, cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def copies(place, source):
    """Copies into the place's root on one machine, without a network. With `durable`, what has no fsync of its own is followed by
    a sync of that file system."""
    durable = place.durable

    def then_sync(*command):
        spent = place.run(*command, source, f"{place.root}/")
        if not durable:
            return spent
        synced = place.run("sync", "-f", place.root)
        return spent._replace(seconds=spent.seconds + synced.seconds, cpu=spent.cpu + synced.cpu)

    return {
        "haul": lambda: place.run(HAUL, "cp", "-aq", *place.haul_options, source, f"{place.root}/"),
        "cp": lambda: then_sync("cp", "-a"),
        "rsync": lambda: place.run("rsync", "-aW", *(["--fsync"] if durable else []), source, f"{place.root}/"),
    }


class Peer:
    """`put` sends self.source to the place's root, `get` fetches it from there; both give seconds and peak memory."""

    def __init__(self, name, place, source, whole):
        self.name, self.place, self.source, self.whole = name, place, source, whole
        self.recursive = source.is_dir()
        self.put, self.get = getattr(self, name.replace("-", "_"))()

    def haul_raw(self):
        return self.haul("--no-compress")

    def haul_z(self):
        return self.haul("-z")

    def haul(self, *options):
        p = self.place
        flags = ["-q", *(["-r"] if self.recursive else []), *p.haul_options, *options]
        return (lambda: p.haul("put", *flags, self.source, "srv:")), (lambda: p.haul("get", *flags, f"srv:{self.source.name}", p.back))

    def haul_ssh(self):
        """A server that ssh starts; the data goes over direct connections beside it."""
        return self.through_ssh()

    def haul_lane(self):
        """The same without direct connections."""
        return self.through_ssh("--ports=0")

    def through_ssh(self, *options):
        p = self.place
        flags = ["-q", *(["-r"] if self.recursive else []), *p.haul_options, *options]
        far = f"ssh://far{p.root}"
        put = lambda: p.run(HAUL, "put", *flags, self.source, f"{far}/")
        return put, (lambda: p.run(HAUL, "get", *flags, f"{far}/{self.source.name}", p.back))

    def rsync_with(self, options, module):
        p, flags = self.place, ["-a", *(["-W"] if self.whole else []), *options]
        put = lambda: p.run("rsync", *flags, self.source, f"{module}/")
        return put, (lambda: p.run("rsync", *flags, f"{module}/{self.source.name}", f"{p.back}/"))

    def rsync(self):
        return self.rsync_with(["--fsync"] if self.place.durable else [], f"rsync://{self.place.host}:8730/m")

    def rsync_z(self):
        return self.rsync_with(["-z"], f"rsync://{self.place.host}:8730/m")

    def rsync_nosync(self):
        return self.rsync_with([], f"rsync://{self.place.host}:8730/m")

    def rsync_ssh(self):
        fsync = ["--fsync"] if self.place.durable else []
        return self.rsync_with(["-e", f"ssh -F {self.place.ssh}", *fsync], f"far:{self.place.root}")

    def scp(self):
        p, flags = self.place, ["-F", self.place.ssh, "-pq", *(["-r"] if self.recursive else [])]
        put = lambda: p.run("scp", *flags, self.source, f"far:{p.root}/")
        return put, (lambda: p.run("scp", *flags, f"far:{p.root}/{self.source.name}", f"{p.back}/"))

    def over_ssh(self, *command):
        """Copies that are written host:path, and start their own far side with ssh."""
        p = self.place
        far = f"{p.host}:{p.root}"
        put = lambda: p.run(*command, self.source, f"{far}/")
        return put, (lambda: p.run(*command, f"{far}/{self.source.name}", f"{p.back}/"))

    def qcp(self):
        return self.over_ssh("qcp", "-qp", *(["-r"] if self.recursive else []))

    def rcp(self):
        return self.over_ssh("rcp", "--preserve-settings=all", "--overwrite")

    def lftp(self):
        p, name = self.place, self.source.name
        if self.recursive:
            put, get = f"mirror -R --parallel=8 {self.source} root/{name}", f"mirror --parallel=8 root/{name} {p.back}/{name}"
        else:
            put, get = f"put -O root {self.source}", f"pget -n 4 root/{name} -o {p.back}/{name}"
        run = lambda what: p.run("lftp", "-e", f"set ftp:ssl-allow no; set xfer:log no; {what}; bye", f"ftp://{p.host}:8721")
        return (lambda: run(put)), (lambda: run(get))

    def bare(self, *options):
        """No program for files: what the machine takes for the same work without a protocol, one file in the page cache."""
        p, name = self.place, self.source.name
        put = lambda: p.run(PIPE, self.source, p.root / name, *options)
        return put, (lambda: p.run(PIPE, p.root / name, p.back / name, *options))

    def pipe(self):
        return self.bare()

    def pipe_keep(self):
        return self.bare("--connections", "4", "--keep", "4")

    def cp(self):
        p = self.place
        put = lambda: copy(self.source, p.root, p.durable)
        return put, (lambda: copy(p.root / self.source.name, p.back, p.durable))
