# Sourced by the stop scripts.

alive() { # alive PID: it runs, and is no zombie that nobody has waited for
    local first
    read -r -d '' first 2>/dev/null <"/proc/$1/cmdline" && [ -n "$first" ]
}

end() { # end PID...: ask, wait for 10 s, then force
    local pid
    kill "$@" 2>/dev/null
    for _ in $(seq 50); do
        for pid in "$@"; do
            alive "$pid" && sleep 0.2 && continue 2
        done
        return 0
    done
    kill -KILL "$@" 2>/dev/null
}
