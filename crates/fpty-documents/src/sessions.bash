
# Ids and names of sessions, where the words so far ask for one: of the server
# whose address stands behind, or in FPTY_ADDRESS.
_fpty_sessions() {
    fpty --list --json "$1" 2>/dev/null </dev/null |
        grep -Eo '"(id|name)" *: *"[^"]+"' | cut -d '"' -f 4
}

_fpty_or_session() {
    local cur=${COMP_WORDS[COMP_CWORD]} address=${FPTY_ADDRESS-} asks= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -a | --attach | --kill) asks=1 ;;
        -A | --join) ((i == COMP_CWORD - 1)) && asks=1 ;;
        esac
    done
    if ((COMP_CWORD + 1 < ${#COMP_WORDS[@]})); then
        address=${COMP_WORDS[${#COMP_WORDS[@]} - 1]}
    fi
    if [[ $asks && $cur != -* && $address ]]; then
        COMPREPLY=($(compgen -W "$(_fpty_sessions "$address")" -- "$cur"))
        ((${#COMPREPLY[@]})) && return 0
    fi
    _fpty "$@"
}

complete -F _fpty_or_session -o bashdefault -o default fpty
