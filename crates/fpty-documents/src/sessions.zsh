# Ids and names of sessions, where the words so far ask for one: of the server
# whose address stands behind, or in FPTY_ADDRESS; addresses, too.
(( $+functions[_fpty_words] )) ||
_fpty_words() {
    local address=${FPTY_ADDRESS-}
    (( CURRENT < $#words )) && address=$words[-1]
    if [[ -n $address && -n ${words[(r)(-a|--attach|--kill)]} ]]; then
        local -a sessions
        sessions=(${(f)"$(fpty --list --json $address 2>/dev/null </dev/null |
            grep -Eo '"(id|name)" *: *"[^"]+"' | cut -d '"' -f 4)"})
        compadd -a sessions
    fi
    _files
}

