//! haul-from-rsync(7): the options and exit codes of rsync, and what haul has for them.

use super::reference::Entry;

/// Options that haul has under the same name.
const SAME: &[Entry] = &[
    (
        "-a",
        "As with rsync: -rlptgoD. Owners and devices as far as the receiving side may set them.",
    ),
    (
        "-r -v -q -c -u -n -m",
        "The same. A dry run prints each file with its difference.",
    ),
    ("-l -t -p -S -W", "haul always does this; the options change nothing."),
    (
        "-o -g -D -H -X -A",
        "The same; one line says what could not be set, and that is no failure.",
    ),
    ("--numeric-ids --chown --usermap --groupmap", "The same."),
    (
        "-z",
        "Compresses from the start. Without it haul compresses by itself on a slow link; \
         --no-compress turns that off.",
    ),
    (
        "-P --partial --progress --info=progress2",
        "Show progress. Partial files always stay, and are resumed.",
    ),
    ("-i", "The same lines as a dry run: the difference, and the name."),
    (
        "--stats -h",
        "Nothing: haul always prints a summary, with sizes for people.",
    ),
    (
        "--exclude --include --filter --exclude-from --include-from -0",
        "The same order and patterns; merge files and the modifiers of rules are missing. A \
         directory that is excluded is searched where an earlier rule may include something in it.",
    ),
    (
        "--delete --del --delete-before --delete-during --delete-delay --delete-after",
        "All the same: haul deletes last, and only if nothing failed. A guard refuses to delete \
         more than half and more than 100 entries, or because a source is empty.",
    ),
    (
        "--delete-excluded --max-delete",
        "The same; beyond --max-delete haul deletes nothing.",
    ),
    (
        "-b --backup-dir --suffix",
        "The same; --backup-dir implies -b. A directory in the place of a backup stays, and the \
         file with it. --delete leaves a backup directory beneath DEST without a rule for it.",
    ),
    ("--existing --ignore-existing --size-only --modify-window", "The same."),
    ("--max-size --min-size --bwlimit", "The same units."),
    ("--mkpath --log-file --chmod", "The same."),
    ("--timeout", "How long to retry without progress, as --retry-for."),
    (
        "-L -k",
        "The same. A server follows symlinks within the user's root. One that leads upward fails.",
    ),
    ("-x", "The same, at both ends."),
    (
        "-R",
        "The same. Directories on the way have the mode and time of the source; a symlink on the \
         way is followed with -k or -L only.",
    ),
    (
        "--files-from -0",
        "The same; a list at the other side is not read. A path out of SRC is refused, and \
         one that begins with a slash is within SRC; a /./ in it means nothing.",
    ),
    (
        "--remove-source-files",
        "The same, when everything else is done; what has changed since stays.",
    ),
    (
        "-e 'ssh …'",
        "The same; haul runs there in place of rsync. host:PATH goes over ssh without it, unless a \
         haul server answers at port 4285.",
    ),
    ("-P 2222", "A port goes into the address: haul://HOST:2222/PATH."),
];

/// Options that haul does not have.
const OTHER: &[Entry] = &[
    (
        "--append --append-verify",
        "Larger files resume by themselves, and are verified.",
    ),
    (
        "--inplace",
        "A reader would see a mixture of old and new. Each file appears whole.",
    ),
    ("--fuzzy -y", "haul sends a changed file whole."),
    ("-C", "Write the patterns as --exclude."),
    (
        "-d --no-relative --no-implied-dirs",
        "Leave them out; a list of --files-from may name a directory with a slash at its end.",
    ),
    ("--link-dest --copy-dest --compare-dest", "haul compares with DEST only."),
    ("--compress-level", "Write --compress=LEVEL."),
    ("host::module rsync://host", "haul does not speak to rsync's daemon."),
];

/// rsync's exit codes, as haul rsync ends with them.
const EXITS: &[Entry] = &[
    ("0", "done (haul 0)"),
    ("1", "wrong usage (haul 2)"),
    ("5", "login refused, or another key (haul 5, 6)"),
    ("10", "could not connect, or gave up retrying (haul 4)"),
    ("11", "failed (haul 1)"),
    ("20", "interrupted (haul 129, 130, 143)"),
    ("23", "done in part; missing, locked or not allowed (haul 3, 7, 8)"),
    (
        "24",
        "done in part: some files of this machine vanished before they were sent (haul 3)",
    ),
    ("25", "nothing deleted: the guard of --delete prevented it (haul 9)"),
];

/// The sections of the page, with their tables.
pub const SECTIONS: [(&str, &[Entry]); 3] = [
    ("OPTIONS THAT HAUL HAS", SAME),
    ("OPTIONS THAT HAUL DOES NOT HAVE", OTHER),
    ("EXIT STATUS OF HAUL RSYNC", EXITS),
];
