# Completion of septate's command line. Made by `make manual`: change the commands, not this file.

_septate() {
    local current=${COMP_WORDS[COMP_CWORD]} path=septate awaited= word
    local commands options
    local -i i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        # bash cuts words at these: what follows belongs to the word before.
        if [[ $word == "=" || $word == ":" ]]; then
            [[ $awaited == --peers || $word == "=" ]] || awaited=:
            continue
        fi
        if [[ -n $awaited && $awaited != --peers ]]; then
            awaited=
            continue
        fi
        case $word in
            --peers | --allow | --allow-peer | --api-addr | --api-body-limit | --cdn-cache | --config-file | --count | --deny-peer | --firewall-mark | --instance | --jsonrpc-addr | --key-file | --link | --log-format | --match | --message-dir | --metrics-api-address | --msg-path | --named-peer | --network-key-file | --network-name | --peer-discovery-interface | --peer-discovery-port | --quic-listen-port | --remote | --reply-to | --tcp-listen-port | --timeout | --topic | --topic-config | --tun-name | --unix-listen | --update-workers | --vsock-listen-port | -c | -k | -q | -t) awaited=$word ;;
            -*) awaited= ;;
            *)
                [[ -n $awaited ]] && continue
                case "$path $word" in
                    "septate actors" | "septate allow" | "septate allow add" | "septate allow help" | "septate allow list" | "septate allow remove" | "septate generate-keys" | "septate help" | "septate inspect" | "septate message" | "septate message cancel" | "septate message help" | "septate message list" | "septate message receive" | "septate message send" | "septate message status" | "septate peers" | "septate peers add" | "septate peers help" | "septate peers links" | "septate peers list" | "septate peers remove" | "septate proxy" | "septate proxy connect" | "septate proxy disconnect" | "septate proxy help" | "septate proxy list" | "septate proxy probe" | "septate proxy probe help" | "septate proxy probe start" | "septate proxy probe stop" | "septate routes" | "septate routes fallback" | "septate routes help" | "septate routes queried" | "septate routes selected" | "septate stats" | "septate stats help" | "septate stats packets" | "septate tap") path="$path $word" ;;
                esac
                ;;
        esac
    done
    [[ $current == "=" || $current == ":" ]] && current=
    case $awaited in
        --config-file | --key-file | --msg-path | --network-key-file | --topic-config | --unix-listen | -c | -k)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
        --cdn-cache | --message-dir)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$current")
            return
            ;;
        --log-format)
            mapfile -t COMPREPLY < <(compgen -W "compact logfmt plain" -- "$current")
            return
            ;;
        "" | --peers) ;;
        *) return ;;
    esac
    case $path in
        "septate")
            commands="actors allow generate-keys help inspect message peers proxy routes stats tap"
            options="-c --config-file -k --key-file -d --debug --silent --log-format --peers -t --tcp-listen-port --disable-quic -q --quic-listen-port --peer-discovery-port --disable-peer-discovery --peer-discovery-interface --api-addr --api-body-limit --jsonrpc-addr --no-tun --tun-name --metrics-api-address --firewall-mark --update-workers --topic-config --message-dir --cdn-cache --allow --named-peer --allow-peer --deny-peer --unix-listen --network-name --network-key-file --vsock-listen-port --enable-dns --instance -V --version -h --help"
            ;;
        "septate actors")
            commands=""
            options="--json --instance -k --key-file -c --config-file -h --help"
            ;;
        "septate allow")
            commands="add help list remove"
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate allow add")
            commands=""
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate allow help")
            commands=""
            options="-h --help"
            ;;
        "septate allow list")
            commands=""
            options="--json -k --key-file -c --config-file -h --help"
            ;;
        "septate allow remove")
            commands=""
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate generate-keys")
            commands=""
            options="--force -k --key-file -c --config-file -h --help"
            ;;
        "septate help")
            commands=""
            options="-h --help"
            ;;
        "septate inspect")
            commands=""
            options="--json -k --key-file -c --config-file -h --help"
            ;;
        "septate message")
            commands="cancel help list receive send status"
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate message cancel")
            commands=""
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate message help")
            commands=""
            options="-h --help"
            ;;
        "septate message list")
            commands=""
            options="--json -k --key-file -c --config-file -h --help"
            ;;
        "septate message receive")
            commands=""
            options="--timeout -t --topic --msg-path --raw -k --key-file -c --config-file -h --help"
            ;;
        "septate message send")
            commands=""
            options="-w --wait --timeout -t --topic --msg-path --reply-to -k --key-file -c --config-file -h --help"
            ;;
        "septate message status")
            commands=""
            options="-w --wait --timeout --json -k --key-file -c --config-file -h --help"
            ;;
        "septate peers")
            commands="add help links list remove"
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate peers add")
            commands=""
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate peers help")
            commands=""
            options="-h --help"
            ;;
        "septate peers links")
            commands=""
            options="--json -k --key-file -c --config-file -h --help"
            ;;
        "septate peers list")
            commands=""
            options="--json -k --key-file -c --config-file -h --help"
            ;;
        "septate peers remove")
            commands=""
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate proxy")
            commands="connect disconnect help list probe"
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate proxy connect")
            commands=""
            options="--remote --json -k --key-file -c --config-file -h --help"
            ;;
        "septate proxy disconnect")
            commands=""
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate proxy help")
            commands=""
            options="-h --help"
            ;;
        "septate proxy list")
            commands=""
            options="--json -k --key-file -c --config-file -h --help"
            ;;
        "septate proxy probe")
            commands="help start stop"
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate proxy probe help")
            commands=""
            options="-h --help"
            ;;
        "septate proxy probe start")
            commands=""
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate proxy probe stop")
            commands=""
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate routes")
            commands="fallback help queried selected"
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate routes fallback")
            commands=""
            options="--json -k --key-file -c --config-file -h --help"
            ;;
        "septate routes help")
            commands=""
            options="-h --help"
            ;;
        "septate routes queried")
            commands=""
            options="--json -k --key-file -c --config-file -h --help"
            ;;
        "septate routes selected")
            commands=""
            options="--json -k --key-file -c --config-file -h --help"
            ;;
        "septate stats")
            commands="help packets"
            options="-k --key-file -c --config-file -h --help"
            ;;
        "septate stats help")
            commands=""
            options="-h --help"
            ;;
        "septate stats packets")
            commands=""
            options="--json -k --key-file -c --config-file -h --help"
            ;;
        "septate tap")
            commands=""
            options="--link --match --count --instance --json -k --key-file -c --config-file -h --help"
            ;;
    esac
    [[ $current != -* ]] && { [[ -n $awaited ]] && return; options=; }
    mapfile -t COMPREPLY < <(compgen -W "${options:-$commands}" -- "$current")
}

complete -F _septate septate
