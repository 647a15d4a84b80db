# Completion of haul in fish: as haul.fish in ~/.config/fish/completions or /usr/share/fish/vendor_completions.d.

# The answer of haul: which local names fit, and a line for each candidate.
function __haul_ask
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    # the word without its quotes, of which the last one may be open
    set -l plain "$current"
    for close in '' '"' "'"
        if set -l unquoted (string unescape -- "$current$close")
            set plain $unquoted
            break
        end
    end
    set -l program $typed[1]
    set -e typed[1]
    $program complete -- $typed "$plain" 2>/dev/null </dev/null
end

function __haul_candidates
    set -l answer (__haul_ask)
    set -e answer[1]
    printf '%s\n' $answer
end

# True where local names of this kind fit. A word with a colon is on a server, which is not asked once more.
function __haul_takes_local
    string match -qr -- '^[^/=]*:' (commandline -ct)
    and return 1
    set -l answer (__haul_ask)
    test "$answer[1]" = "$argv[1]"
end

function __haul_directories
    set -l word (commandline -ct)
    set -l option (string match -r -- '^--[a-z-]+=' "$word")
    string replace -r -- '^' "$option" (__fish_complete_directories (string replace -- "$option" '' "$word") '')
end

complete -c haul -f -a '(__haul_candidates)'
complete -c haul -F -n '__haul_takes_local files'
complete -c haul -f -n '__haul_takes_local dirs' -a '(__haul_directories)'
