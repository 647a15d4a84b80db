# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_haul_global_optspecs
    string join \n h/help V/version
end

function __fish_haul_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_haul_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_haul_using_subcommand
    set -l cmd (__fish_haul_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c haul -n "__fish_haul_needs_command" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_needs_command" -s V -l version -d 'Print version'
complete -c haul -n "__fish_haul_needs_command" -f -a "serve" -d 'Serve a directory to users who log in'
complete -c haul -n "__fish_haul_needs_command" -f -a "put" -d 'Send files and directories to a server'
complete -c haul -n "__fish_haul_needs_command" -f -a "get" -d 'Fetch files and directories from a server'
complete -c haul -n "__fish_haul_needs_command" -f -a "ls" -d 'List files and directories on a server'
complete -c haul -n "__fish_haul_needs_command" -f -a "mkdir" -d 'Make directories on a server'
complete -c haul -n "__fish_haul_needs_command" -f -a "rm" -d 'Remove files and directories from a server'
complete -c haul -n "__fish_haul_needs_command" -f -a "mv" -d 'Rename or move a file or directory on a server'
complete -c haul -n "__fish_haul_needs_command" -f -a "stat" -d 'Show what is known of a file or directory on a server'
complete -c haul -n "__fish_haul_needs_command" -f -a "df" -d 'Show how much space a server has'
complete -c haul -n "__fish_haul_needs_command" -f -a "locks" -d 'Show who is writing, and what unfinished transfers have left'
complete -c haul -n "__fish_haul_needs_command" -f -a "unlock" -d 'Remove what an unfinished transfer has left'
complete -c haul -n "__fish_haul_needs_command" -f -a "login" -d 'Log in to a server for the first time, with an invite'
complete -c haul -n "__fish_haul_needs_command" -f -a "invite" -d 'Print a one-time code that lets a machine log in as a user'
complete -c haul -n "__fish_haul_needs_command" -f -a "user" -d 'Manage the users of this machine\'s server'
complete -c haul -n "__fish_haul_needs_command" -f -a "bench" -d 'Measure how fast haul moves data, and what limits it'
complete -c haul -n "__fish_haul_needs_command" -f -a "generate" -d 'Write the manual pages or the shell completions into a directory'
complete -c haul -n "__fish_haul_using_subcommand serve" -l listen -d 'Listen on this address; may be given several times [default: [::]:4285 and 0.0.0.0:4285]' -r
complete -c haul -n "__fish_haul_using_subcommand serve" -l state -d 'Where the key and the users are kept [default: $XDG_STATE_HOME/haul, /var/lib/haul for root]' -r -F
complete -c haul -n "__fish_haul_using_subcommand serve" -l max-sessions -d 'Sessions at once' -r
complete -c haul -n "__fish_haul_using_subcommand serve" -l max-connections -d 'Data connections of each session' -r
complete -c haul -n "__fish_haul_using_subcommand serve" -l max-memory -d 'Memory for data on its way, of all sessions together' -r
complete -c haul -n "__fish_haul_using_subcommand serve" -l session-grace -d 'How long a session waits for its client after its connection was lost' -r
complete -c haul -n "__fish_haul_using_subcommand serve" -l keep-partial -d 'How long what an abandoned transfer left is kept, so that it can be gone on with' -r
complete -c haul -n "__fish_haul_using_subcommand serve" -l json -d 'Say on which addresses it listens as JSON, one object a line'
complete -c haul -n "__fish_haul_using_subcommand serve" -s v -l verbose -d 'Log more'
complete -c haul -n "__fish_haul_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand put" -l if-version -d 'Replace the file only if it has version V (see stat --json); \'none\': only if there is no such file' -r
complete -c haul -n "__fish_haul_using_subcommand put" -l wait -d 'Wait for another writer of the same file, at most TIME (30s, 5m, 1h; alone: without end)' -r
complete -c haul -n "__fish_haul_using_subcommand put" -l connections -d 'Use N data connections [default: 4, and up to 32 where that is faster]' -r
complete -c haul -n "__fish_haul_using_subcommand put" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand put" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand put" -s r -l recursive -d 'Take directories, with everything in them'
complete -c haul -n "__fish_haul_using_subcommand put" -s c -l checksum -d 'Compare files by content instead of by size and modification time'
complete -c haul -n "__fish_haul_using_subcommand put" -l no-fsync -d 'Do not wait until the files are on disk'
complete -c haul -n "__fish_haul_using_subcommand put" -s q -l quiet -d 'Print failures only'
complete -c haul -n "__fish_haul_using_subcommand put" -s v -l verbose -d 'Name every file'
complete -c haul -n "__fish_haul_using_subcommand put" -l json -d 'Print one JSON object a line'
complete -c haul -n "__fish_haul_using_subcommand put" -l progress -d 'Show progress also where standard error is no terminal: a line every five seconds and at the end'
complete -c haul -n "__fish_haul_using_subcommand put" -l no-progress -d 'Show no progress'
complete -c haul -n "__fish_haul_using_subcommand put" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand put" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand get" -l if-version -d 'Replace the file only if it has version V (see stat --json); \'none\': only if there is no such file' -r
complete -c haul -n "__fish_haul_using_subcommand get" -l wait -d 'Wait for another writer of the same file, at most TIME (30s, 5m, 1h; alone: without end)' -r
complete -c haul -n "__fish_haul_using_subcommand get" -l connections -d 'Use N data connections [default: 4, and up to 32 where that is faster]' -r
complete -c haul -n "__fish_haul_using_subcommand get" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand get" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand get" -s r -l recursive -d 'Take directories, with everything in them'
complete -c haul -n "__fish_haul_using_subcommand get" -s c -l checksum -d 'Compare files by content instead of by size and modification time'
complete -c haul -n "__fish_haul_using_subcommand get" -l no-fsync -d 'Do not wait until the files are on disk'
complete -c haul -n "__fish_haul_using_subcommand get" -s q -l quiet -d 'Print failures only'
complete -c haul -n "__fish_haul_using_subcommand get" -s v -l verbose -d 'Name every file'
complete -c haul -n "__fish_haul_using_subcommand get" -l json -d 'Print one JSON object a line'
complete -c haul -n "__fish_haul_using_subcommand get" -l progress -d 'Show progress also where standard error is no terminal: a line every five seconds and at the end'
complete -c haul -n "__fish_haul_using_subcommand get" -l no-progress -d 'Show no progress'
complete -c haul -n "__fish_haul_using_subcommand get" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand ls" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand ls" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand ls" -s l -d 'One entry a line with mode, size and time'
complete -c haul -n "__fish_haul_using_subcommand ls" -s a -d 'Also names that start with a dot'
complete -c haul -n "__fish_haul_using_subcommand ls" -s R -l recursive -d 'Everything beneath, directory by directory'
complete -c haul -n "__fish_haul_using_subcommand ls" -s h -l human-readable -d 'Sizes with units'
complete -c haul -n "__fish_haul_using_subcommand ls" -l json -d 'Print one JSON object a line: name, path, kind, size, mtime, mode, target, version'
complete -c haul -n "__fish_haul_using_subcommand ls" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand ls" -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand mkdir" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand mkdir" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand mkdir" -s p -l parents -d 'Also make what is above it, and do not mind if it exists'
complete -c haul -n "__fish_haul_using_subcommand mkdir" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand mkdir" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand rm" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand rm" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand rm" -s r -l recursive -d 'Remove directories with everything in them'
complete -c haul -n "__fish_haul_using_subcommand rm" -s f -l force -d 'Do not mind what does not exist'
complete -c haul -n "__fish_haul_using_subcommand rm" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand rm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand mv" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand mv" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand mv" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand mv" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand stat" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand stat" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand stat" -l hash -d 'Also the BLAKE3 hash of its content'
complete -c haul -n "__fish_haul_using_subcommand stat" -l json -d 'Print one JSON object a line'
complete -c haul -n "__fish_haul_using_subcommand stat" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand stat" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand df" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand df" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand df" -l json -d 'Print one JSON object a line: path, total, used, free (bytes), files, files_free (inodes)'
complete -c haul -n "__fish_haul_using_subcommand df" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand df" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand locks" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand locks" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand locks" -s R -l recursive -d 'Also in the directories beneath'
complete -c haul -n "__fish_haul_using_subcommand locks" -l json -d 'Print one JSON object a line: path, state, held_ms, bytes, holder'
complete -c haul -n "__fish_haul_using_subcommand locks" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand locks" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand unlock" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand unlock" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand unlock" -s f -l force -d 'Also when the writer is at work'
complete -c haul -n "__fish_haul_using_subcommand unlock" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand unlock" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand login" -l name -d 'Save the server under this name instead of HOST' -r
complete -c haul -n "__fish_haul_using_subcommand login" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand invite; and not __fish_seen_subcommand_from ls rm" -l ttl -d 'How long the code is good' -r
complete -c haul -n "__fish_haul_using_subcommand invite; and not __fish_seen_subcommand_from ls rm" -l root -d 'The user\'s own root, beneath the server\'s' -r
complete -c haul -n "__fish_haul_using_subcommand invite; and not __fish_seen_subcommand_from ls rm" -l state -d 'The server\'s state directory, as in haul serve' -r -F
complete -c haul -n "__fish_haul_using_subcommand invite; and not __fish_seen_subcommand_from ls rm" -l full -d 'May do everything beneath the root [default for a new user]'
complete -c haul -n "__fish_haul_using_subcommand invite; and not __fish_seen_subcommand_from ls rm" -l read-only -d 'May read and list, and change nothing'
complete -c haul -n "__fish_haul_using_subcommand invite; and not __fish_seen_subcommand_from ls rm" -l write-only -d 'May put files and make directories, and nothing else: a drop-box'
complete -c haul -n "__fish_haul_using_subcommand invite; and not __fish_seen_subcommand_from ls rm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand invite; and not __fish_seen_subcommand_from ls rm" -a "ls" -d 'List the invites that have not been used'
complete -c haul -n "__fish_haul_using_subcommand invite; and not __fish_seen_subcommand_from ls rm" -a "rm" -d 'Remove invites that have not been used'
complete -c haul -n "__fish_haul_using_subcommand invite; and __fish_seen_subcommand_from ls" -l state -d 'The server\'s state directory, as in haul serve' -r -F
complete -c haul -n "__fish_haul_using_subcommand invite; and __fish_seen_subcommand_from ls" -l json -d 'Print one JSON object a line: user, id, expires'
complete -c haul -n "__fish_haul_using_subcommand invite; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand invite; and __fish_seen_subcommand_from rm" -l state -d 'The server\'s state directory, as in haul serve' -r -F
complete -c haul -n "__fish_haul_using_subcommand invite; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand user; and not __fish_seen_subcommand_from add set passwd rm ls key" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand user; and not __fish_seen_subcommand_from add set passwd rm ls key" -f -a "add" -d 'Add a user; the password is asked for twice at a terminal, else read from standard input'
complete -c haul -n "__fish_haul_using_subcommand user; and not __fish_seen_subcommand_from add set passwd rm ls key" -f -a "set" -d 'Change what a user may do; password and keys stay'
complete -c haul -n "__fish_haul_using_subcommand user; and not __fish_seen_subcommand_from add set passwd rm ls key" -f -a "passwd" -d 'Set a user\'s password'
complete -c haul -n "__fish_haul_using_subcommand user; and not __fish_seen_subcommand_from add set passwd rm ls key" -f -a "rm" -d 'Remove a user with all keys and invites'
complete -c haul -n "__fish_haul_using_subcommand user; and not __fish_seen_subcommand_from add set passwd rm ls key" -f -a "ls" -d 'List the users'
complete -c haul -n "__fish_haul_using_subcommand user; and not __fish_seen_subcommand_from add set passwd rm ls key" -f -a "key" -d 'Manage the keys that log a user in'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from add" -l state -d 'The server\'s state directory, as in haul serve' -r -F
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from add" -l key -d 'Log in by this public key (the key.pub of a client) instead of a password' -r -F
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from add" -l root -d 'The user\'s own root, beneath the server\'s' -r
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from add" -l invited -d 'Neither password nor key: haul invite lists a key'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from add" -l full -d 'May do everything beneath the root [default for a new user]'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from add" -l read-only -d 'May read and list, and change nothing'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from add" -l write-only -d 'May put files and make directories, and nothing else: a drop-box'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from set" -l state -d 'The server\'s state directory, as in haul serve' -r -F
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from set" -l root -d 'The user\'s own root, beneath the server\'s' -r
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from set" -l full -d 'May do everything beneath the root [default for a new user]'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from set" -l read-only -d 'May read and list, and change nothing'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from set" -l write-only -d 'May put files and make directories, and nothing else: a drop-box'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from passwd" -l state -d 'The server\'s state directory, as in haul serve' -r -F
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from passwd" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from rm" -l state -d 'The server\'s state directory, as in haul serve' -r -F
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from ls" -l state -d 'The server\'s state directory, as in haul serve' -r -F
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from ls" -l json -d 'Print one JSON object a line: name, access, root, password (true or false), keys, invites'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from key" -s h -l help -d 'Print help'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from key" -f -a "add" -d 'Add a key to a user, or change what holds for it'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from key" -f -a "rm" -d 'Remove a key: its sessions and running transfers end at once'
complete -c haul -n "__fish_haul_using_subcommand user; and __fish_seen_subcommand_from key" -f -a "ls" -d 'List a user\'s keys'
complete -c haul -n "__fish_haul_using_subcommand bench" -l connections -d 'Use N data connections' -r
complete -c haul -n "__fish_haul_using_subcommand bench" -l password-file -d 'Read the password from the first line of FILE' -r -F
complete -c haul -n "__fish_haul_using_subcommand bench" -l retry-for -d 'When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no connection can be made in the first place. HAUL_RETRY_FOR says the same' -r
complete -c haul -n "__fish_haul_using_subcommand bench" -l no-fsync -d 'Do not wait until the files are on disk'
complete -c haul -n "__fish_haul_using_subcommand bench" -l accept-new -d 'Pin the key of a server that is not known yet without asking'
complete -c haul -n "__fish_haul_using_subcommand bench" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c haul -n "__fish_haul_using_subcommand generate" -s h -l help -d 'Print help'
