
# Ids and names of sessions, where the words so far ask for one: of the server
# in FPTY_ADDRESS, or whose address stands behind.
function __fpty_sessions
    set -l address $FPTY_ADDRESS
    set -l words (commandline -op)
    test (count $words) -gt (count (commandline -opc)); and set address $words[-1]
    test -n "$address"; or return
    fpty --list --json $address 2>/dev/null </dev/null |
        string match -rag '"(?:id|name)" *: *"([^"]+)"'
end
complete -c fpty -n '__fish_contains_opt -s a attach kill' -a '(__fpty_sessions)'
