# Completion of haul in bash: with bash-completion as /usr/share/bash-completion/completions/haul or
# ~/.local/share/bash-completion/completions/haul, or sourced from ~/.bashrc.

# The words of the line up to the cursor, put together again where bash splits them at : = and @.
_haul_words() {
    local rest=${COMP_LINE:0:COMP_POINT} word index
    typed=()
    for ((index = 0; index <= COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [[ $rest == [[:space:]]* || index -eq 0 ]]; then
            rest=${rest#"${rest%%[![:space:]]*}"}
            typed+=("")
        fi
        # the cursor may stand within the last one
        [[ $rest == "$word"* ]] || word=$rest
        typed[${#typed[@]} - 1]+=$word
        rest=${rest#"$word"}
    done
}

# Adds a word, without the part that bash keeps and with the quotes that the line needs.
_haul_add() {
    local plain=${1#"$kept"} quoted
    case $quote in
        '"') quoted=${plain//\\/\\\\} quoted=${quoted//\"/\\\"} quoted=${quoted//\$/\\\$} quoted=${quoted//\`/\\\`} ;;
        "'") quoted=${plain//\'/\'\\\'\'} ;;
        *) printf -v quoted %q "$plain" ;;
    esac
    COMPREPLY+=("$quoted")
}

_haul() {
    local -a typed reply
    local line name word kept quote=
    COMPREPLY=()
    _haul_words
    word=${typed[${#typed[@]} - 1]}
    mapfile -t reply < <("${typed[0]/#\~\//$HOME/}" complete --quoted -- "${typed[@]:1}" 2>/dev/null </dev/null)
    # bash replaces $2, the end of the word; what stands before it is kept
    kept=${word%"$2"}
    case $kept in
        *[\"\']) quote=${kept: -1} ;;
    esac
    kept=${kept//[\"\'\\]/}
    for line in "${reply[@]:1}"; do
        _haul_add "${line%%$'\t'*}"
    done
    if ((${#COMPREPLY[@]} == 0)); then
        # bash completes local names best by itself
        case ${reply[0]} in
            files) compopt -o default ;;
            dirs) compopt -o dirnames ;;
        esac
        return
    fi
    if [[ ${reply[0]} == files ]]; then
        while IFS= read -r name; do
            [[ -d $name ]] && name+=/
            _haul_add "$name"
        done < <(compgen -f -- "$word")
    fi
    if ((${#COMPREPLY[@]} == 1)) && [[ ${COMPREPLY[0]} == *[/:=] ]]; then
        compopt -o nospace
    fi
} && complete -F _haul haul
