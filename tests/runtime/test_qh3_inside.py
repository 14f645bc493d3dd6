"""qh3 is tried before the first connection: one that lacks what is reached for is refused by its version."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from qh3.quic.connection import QuicConnection
from qh3.quic.tls_bridge import QuicTlsBridge

from actors.link.transports import qh3_inside
from actors.link.transports.qh3_inside import Qh3Error, check


def test_installed_library_has_all_that_is_needed() -> None:
    check()


@pytest.mark.parametrize("name", [*qh3_inside._CORE, *qh3_inside._TLS, *qh3_inside._FACADE, "gone_in_the_next_version"])
def test_library_without_something_needed_is_refused_by_its_version(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for list_of_names in ("_CORE", "_TLS", "_FACADE"):
        if name in getattr(qh3_inside, list_of_names):
            monkeypatch.setattr(qh3_inside, list_of_names, (f"{name}_as_it_was",))
            break
    else:
        monkeypatch.setattr(qh3_inside, "_CORE", (name,))
    with pytest.raises(Qh3Error, match=f"qh3 {version('qh3')} .*{name}.*constraints.txt.*--disable-quic"):
        check()


@pytest.mark.parametrize(("kind", "name"), [(QuicConnection, "_create_core"), (QuicTlsBridge, "start")])
def test_library_that_was_rebuilt_is_refused(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> None:
    monkeypatch.delattr(kind, name)
    with pytest.raises(Qh3Error, match="a trial failed"):
        check()
