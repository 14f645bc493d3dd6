"""Peers by name: of its addresses the first that answers wins, whatever is spoken there, and however many there are."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lab.names import name_server
from tests.lab.namespaces import Lab
from tests.lab.nodes import LISTEN_PORT, SeptateNode
from tests.lab.ping import ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.processes import find_process, wait_for_counter, wait_for_successor

pytestmark = pytest.mark.namespaces

OURS: Final = "/api/v1/septate/peers"
AT_ONCE: Final = 5.0
"""A few head starts of 250 ms, a handshake, a figure that comes once a second; far from the 10 s of a dead one."""
MANY: Final = 1000
HERE: Final = "127.0.0.1"
MARK: Final = 42


def rows(node: SeptateNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.api.get(OURS) or []
    return found


def alive(node: SeptateNode) -> str:
    """Where the node's only peer was reached, when it is connected."""
    return "".join(str(row["reached"]) for row in rows(node) if row["state"] == "alive")


def unreadable(folder: str, names: list[str]) -> list[str]:
    """Those of the names in a folder that this user may not copy."""
    return [name for name in names if not os.access(Path(folder, name), os.R_OK)]


def links(node: SeptateNode) -> int:
    return len([actor for actor in node.actors() if actor.role == "link"])


def test_of_the_addresses_of_a_quic_peer_the_first_that_shakes_hands_wins(lab: Lab) -> None:
    near, far = lab.namespace("near"), lab.namespace("far")
    wire = lab.wire(near, far)
    listener = SeptateNode(lab, far).start()
    listener.wait_until_up()
    silent = wire.right_address.rpartition(".")[0]
    # Two where nobody is, one where nobody listens, the peer, and one that need not be tried.
    near.ip("address", "add", "192.0.2.1/32", "dev", "lo")
    places = [f"{silent}.77", f"{silent}.78", "192.0.2.1", wire.right_address, f"{silent}.79"]
    far_off = ("--tcp-listen-port", "0", "--quic-listen-port", "0")
    with name_server(near, HERE, {"peer.test": places}, [near], lab.folder):
        options = ("--named-peer", f"quic://peer.test:{LISTEN_PORT}", *far_off)
        node = SeptateNode(lab, near, options=options).start()
        node.wait_until_up()
        reached = wait_until("the peer is reached", lambda: alive(node), AT_ONCE)
        assert reached == f"quic://{wire.right_address}:{LISTEN_PORT}"
        ping_until_reply(near, listener.address, REACH_TIMEOUT)
        # Those that did not win are gone: one link, one process.
        wait_until("one link is left", lambda: links(node) == 1, AT_ONCE)
        assert wait_for_counter(node, "peers", "dials.connected") == 1
        # It is found again, and so is a peer that is removed in the middle of its race.
        assert near.run([node.program, "peers", "remove", f"quic://peer.test:{LISTEN_PORT}"]).returncode == 0
        assert near.run([node.program, "peers", "add", f"quic://peer.test:{LISTEN_PORT}"]).returncode == 0
        wait_until("the race is on", lambda: links(node) > 0, AT_ONCE)
        assert near.run([node.program, "peers", "remove", f"quic://peer.test:{LISTEN_PORT}"]).returncode == 0
        wait_until("nobody is dialled", lambda: not links(node) and not rows(node), AT_ONCE)
        node.stop()


def test_address_where_the_tls_handshake_fails_lets_the_next_one_have_its_turn(lab: Lab) -> None:
    near, far, other = lab.namespace("near"), lab.namespace("far"), lab.namespace("other")
    wire, to_other = lab.wire(near, far), lab.wire(near, other)
    words = lab.folder / "network"
    words.write_bytes(secrets.token_bytes(32))
    private = ("--network-name", "ours", "--network-key-file", str(words))
    listener = SeptateNode(lab, far, options=private).start()
    # It takes the connection, and belongs to no private network.
    SeptateNode(lab, other).start().wait_until_up()
    listener.wait_until_up()
    places = [to_other.right_address, wire.right_address]
    with name_server(near, HERE, {"peer.test": places}, [near], lab.folder):
        options = (*private, "--named-peer", f"tls://peer.test:{LISTEN_PORT}")
        node = SeptateNode(lab, near, options=options).start()
        node.wait_until_up()
        reached = wait_until("the peer is reached", lambda: alive(node), AT_ONCE)
        assert reached == f"tls://{wire.right_address}:{LISTEN_PORT}"
        node.stop()


def test_name_with_a_thousand_addresses_is_a_few_tries_and_one_without_any_is_named(lab: Lab) -> None:
    near = lab.namespace("near")
    # Of both families, and nobody at any of them: so much does not fit a datagram, and is asked for over TCP.
    places = [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(MANY // 2)]
    places += [f"2001:db8::{number:x}" for number in range(MANY // 2)]
    with name_server(near, HERE, {"many.test": places, "empty.test": []}, [near], lab.folder) as server:
        names = ("tcp://many.test:9", "quic://many.test:9", "tcp://nobody.test:9", "quic://empty.test:9")
        node = SeptateNode(lab, near, options=[word for name in names for word in ("--named-peer", name)]).start()
        node.wait_until_up()
        wait_until("all say why", lambda: all(row["reason"] for row in rows(node)), 2 * AT_ONCE)
        reasons = {row["endpoint"]: row["reason"] for row in rows(node)}
        assert set(reasons["tcp://many.test:9"].split("; ")) == {"Connection refused", "Network is unreachable"}
        assert reasons["tcp://nobody.test:9"].startswith("cannot look up nobody.test: ")
        assert reasons["quic://empty.test:9"].startswith("cannot look up empty.test: ")
        wait_for_counter(node, "peers", "lookups.addresses_over_limit", 2 * (MANY - 8))
        assert ("many.test", 1, "tcp") in server.asked
        assert links(node) <= 8
        node.stop()


def test_with_a_firewall_mark_names_are_asked_for_by_marked_questions(lab: Lab) -> None:
    near, far = lab.namespace("near"), lab.namespace("far")
    wire = lab.wire(near, far)
    listener = SeptateNode(lab, far).start()
    listener.wait_until_up()
    # As a machine whose default way is a tunnel: only what is marked gets out by the wire.
    near.ip("rule", "add", "not", "fwmark", str(MARK), "to", f"{wire.right_address}/32", "unreachable")
    # More than 512 bytes have room for; and about what the hosts file knows nobody is asked.
    places = [wire.right_address, *(f"127.2.0.{number}" for number in range(1, 40))]
    known = lab.folder / "hosts"
    known.write_text(f"{wire.right_address} known.test\n")
    near.etc["hosts"] = known
    names = ("tcp://peer.test:9651", "quic://known.test:9651", "tcp://nobody.test:9651")
    options = [word for name in names for word in ("--named-peer", name)]
    with name_server(far, wire.right_address, {"peer.test": places}, [near], lab.folder) as server:
        unmarked = SeptateNode(lab, near, options=options).start()
        unmarked.wait_until_up()
        wait_until("none is reached", lambda: all(row["reason"] for row in rows(unmarked)), 15.0)
        assert server.asked == []
        unmarked.stop()

        node = SeptateNode(lab, near, options=["--firewall-mark", str(MARK), *options]).start()
        node.wait_until_up()
        ping_until_reply(near, listener.address, REACH_TIMEOUT)
        wait_until("both are reached", lambda: sum(row["state"] == "alive" for row in rows(node)) == 2, AT_ONCE)
        reached = {row["endpoint"]: row["reached"] for row in rows(node)}
        assert reached["tcp://peer.test:9651"] == f"tcp://{wire.right_address}:{LISTEN_PORT}"
        (reason,) = [row["reason"] for row in rows(node) if "nobody" in row["endpoint"]]
        assert reason == f"cannot look up nobody.test: {wire.right_address} knows no such name"
        assert {name for name, _, _ in server.asked} == {"peer.test", "nobody.test"}
        node.stop()


def test_file_about_names_that_is_replaced_is_read_without_a_restart_of_the_node(lab: Lab) -> None:
    near, far = lab.namespace("near"), lab.namespace("far")
    wire = lab.wire(near, far, addresses=2)
    listener = SeptateNode(lab, far).start()
    listener.wait_until_up()
    folder = lab.folder / "etc"
    shutil.copytree("/etc", folder, symlinks=True, ignore=unreadable)
    (folder / "resolv.conf").write_text("nameserver 127.0.0.9\n")
    near.etc["."] = folder
    options = ("--named-peer", f"quic://peer.test:{LISTEN_PORT}")
    node = SeptateNode(lab, near, peers=[listener.endpoint(wire.right_address)], options=options).start()
    node.wait_until_up()
    node.wait_for_links(1)
    process = find_process(node, "peers")
    # As an editor does it, and whoever configures a network.
    (folder / "new").write_text(f"{wire.right_addresses[1]} peer.test\n")
    (folder / "new").rename(folder / "hosts")
    node.wait_for_links(2, timeout=20.0)
    assert wait_for_successor(node, process).restarts == process.restarts + 1
    # The other link was there all the time.
    assert wait_for_counter(listener, "peers", "accepts.connected", 2) == 2
