"""Peers behind SOCKS5 proxies: with a password that nobody gets to see, and past proxies that lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from bench.accounting import tree_of
from tests.lab.namespaces import Lab
from tests.lab.nodes import LISTEN_PORT, SeptateNode
from tests.lab.ping import ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.processes import counted
from tests.namespaces.proxies import SUCCESS, proxies, relay, says

pytestmark = pytest.mark.namespaces

OURS: Final = "/api/v1/septate/peers"
SECRET: Final = "Staub+Zucker"
FILED: Final = "Mehl und Salz"
ALL_OF_A_DIAL: Final = 10.0
_METHOD: Final = b"\x05\x00"
LIARS: Final = {
    # By port: what it says, and how the node names that.
    2001: (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "it speaks no SOCKS5"),
    2002: (says(b""), "it closed the connection in the middle of its answer"),
    2003: (says(b"\x05"), "it closed the connection in the middle of its answer"),
    2004: (says(_METHOD, SUCCESS[:7]), "it closed the connection in the middle of its answer"),
    2005: (says(_METHOD, b"\x04" + SUCCESS[1:]), "it speaks no SOCKS5"),
    2006: (says(_METHOD, b"\x05\x00\x00\x09" + bytes(40)), "it answered with an address of kind 9"),
    2007: (says(_METHOD, b"\x05\x05\x00\x01"), "connection refused"),
    2008: (says(b"\x05\x07"), "it chose method 7, which was not offered"),
    2009: (says(b"\x05\x02", b"\x01\x01"), "it refused user or password"),
    2010: (says(b"\x05\x02", b"HT"), "it answered a password with version 72"),
    # The longest name that an answer may have, a byte each second.
    2011: (says(_METHOD, b"\x05\x00\x00\x03\xff" + b"a" * 257, pause=1.0), "no whole answer in 10 s"),
    # Neither the node's peer nor a liar's: what follows a good answer is the peer's, who speaks garbage here.
    2012: (says(_METHOD, SUCCESS + b"HTTP/1.1 200 OK\r\n\r\n" * 5000), "it sent garbage: packet version 72"),
}


def rows(node: SeptateNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.api.get(OURS) or []
    return found


def test_proxies_that_lie_are_named_and_cost_the_others_nothing(lab: Lab) -> None:
    place = lab.namespace("near")
    named = [
        word
        for port in LIARS
        for word in ("--named-peer", f"socks://anna:x@127.0.0.1:{port}/peer.example.org:{LISTEN_PORT}")
    ]
    with proxies(place, {port: script for port, (script, _) in LIARS.items()}):
        node = SeptateNode(lab, place, options=named).start()
        node.wait_until_up()
        reasons: dict[int, set[str]] = {port: set() for port in LIARS}

        def all_named() -> bool:
            for row in rows(node):
                reasons[int(row["endpoint"].split("/")[2].rpartition(":")[2])].add(row["reason"])
            return all(any(LIARS[port][1] in reason for reason in found) for port, found in reasons.items())

        wait_until("each liar is named", all_named, ALL_OF_A_DIAL + 10.0)
        # All but the one whose garbage was the peer's.
        assert counted(node, "peers", "dials.proxy_failed") >= len(LIARS) - 1
        assert all("the proxy anna@127.0.0.1:2009: it refused" in reason for reason in reasons[2009] if reason)
        node.stop()


def test_password_of_a_proxy_opens_the_way_and_is_shown_nowhere(lab: Lab) -> None:
    left, right = lab.namespace("near"), lab.namespace("far")
    wire = lab.wire(left, right)
    far = SeptateNode(lab, right).start()
    far.wait_until_up()
    given, filed = list[bytes](), list[bytes]()
    words = lab.folder / "passwords"
    words.write_text(f"# ours\nbert@localhost:1081 {FILED}\n")
    configured = lab.folder / "near.toml"
    configured.write_text(f'socks_password_file = "{words}"\n')
    options = ("--config-file", str(configured), "--named-peer", f"socks://anna:{SECRET}@127.0.0.1:1080/far:9651", "-d")
    scripts = {
        1080: relay(left, wire.right_address, given, login=True),
        1081: relay(left, wire.right_address, filed, login=True),
    }
    with proxies(left, scripts):
        node = SeptateNode(lab, left, options=options).start()
        node.wait_until_up()
        ping_until_reply(left, far.address, REACH_TIMEOUT)
        assert given[:2] == [b"\x05\x02\x00\x02", b"\x01\x04anna" + bytes((len(SECRET),)) + SECRET.encode()]
        added = left.run(
            [node.program, "peers", "add", "socks://bert@localhost:1081/far:9651", "socks://carl@127.0.0.1:1082/x:1"]
        )
        assert added.returncode == 0
        wait_until("the second way is open", lambda: len([r for r in rows(node) if r["state"] == "alive"]) == 2, 15.0)
        assert filed[1].endswith(FILED.encode())
        again = left.run([node.program, "peers", "add", f"socks://bert:{SECRET}@localhost:1081/far:9651"])
        wrong = left.run([node.program, "peers", "add", f"socks://bert:{SECRET}@localhost/far:9651"])
        assert (again.returncode, wrong.returncode) == (1, 1)
        shown = [
            node.log_path.read_bytes(),
            *(again.stdout + again.stderr, wrong.stdout + wrong.stderr),
            *(left.run([node.program, "peers", *how]).stdout for how in (["list"], ["links"], ["links", "--json"])),
            left.run([node.program, "actors", "--json", "--instance", node.instance]).stdout,
            *(
                str(node.api.request("GET", path)).encode()
                for path in (OURS, "/api/v1/admin/peers", "/status", "/api/v1/admin", "/api/v1/septate/actors")
            ),
            *(Path(f"/proc/{number}/cmdline").read_bytes() for number in tree_of(node.process_id)),
        ]
        for text in shown:
            assert text
            assert SECRET.encode() not in text
            assert FILED.encode() not in text
        (missing,) = [row["reason"] for row in rows(node) if "carl" in row["endpoint"]]
        assert (
            missing == "no password for carl@127.0.0.1:1082: give one as USER:PASSWORD, or in the socks_password_file"
        )
        # Removed with or without its password: it is known by its user.
        gone = left.run([node.program, "peers", "remove", f"socks://anna:{SECRET}@127.0.0.1:1080/far:9651"])
        assert gone.returncode == 0
        assert sorted(row["endpoint"] for row in rows(node)) == [
            "socks://bert@localhost:1081/far:9651",
            "socks://carl@127.0.0.1:1082/x:1",
        ]
        node.stop()
