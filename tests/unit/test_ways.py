"""Which transport leads to an endpoint, by what the node speaks."""

import pytest

from protocol.mycelium.endpoint import Endpoint, EndpointError, Protocol, UnixAddress
from protocol.transports import Ways

PUBLIC = Ways(quic=True)
PRIVATE = Ways(private=True)


@pytest.mark.parametrize(
    "text",
    ["tcp://192.0.2.1:9651", "quic://[2001:db8::1]:9651", "vsock://2:9651", "unix:///run/septate.sock"],
)
def test_public_node_speaks_what_the_endpoint_says(text: str) -> None:
    endpoint = Endpoint.parse(text)
    assert (PUBLIC.transport(endpoint), PUBLIC.why_never(endpoint)) == (endpoint.protocol, "")


@pytest.mark.parametrize("text", ["tcp://192.0.2.1:9651", "tls://192.0.2.1:9651"])
def test_private_node_speaks_tls_wherever_there_is_tcp(text: str) -> None:
    endpoint = Endpoint.parse(text)
    assert (PRIVATE.transport(endpoint), PRIVATE.why_never(endpoint)) == (Protocol.TLS, "")


@pytest.mark.parametrize("text", ["unix:///run/septate.sock", "vsock://2:9651"])
def test_private_node_leaves_the_machine_s_own_streams_as_they_are(text: str) -> None:
    endpoint = Endpoint.parse(text)
    assert (PRIVATE.transport(endpoint), PRIVATE.why_never(endpoint)) == (endpoint.protocol, "")


@pytest.mark.parametrize(
    ("ways", "text", "reason"),
    [
        (PUBLIC, "tls://192.0.2.1:9651", "--network-key-file"),
        (PRIVATE, "quic://192.0.2.1:9651", "no QUIC in a private network"),
        (Ways(), "quic://192.0.2.1:9651", "disabled"),
        (PUBLIC, "unix:///run/a.sock#3", "one who dialled us"),
    ],
)
def test_endpoint_that_leads_nowhere_is_named_with_the_reason(ways: Ways, text: str, reason: str) -> None:
    assert reason in ways.why_never(Endpoint.parse(text))


def test_unix_endpoints_read_back() -> None:
    for text in ("unix:///run/a.sock", "unix:///run/with blanks/ä.sock", "unix:///run/a.sock#12"):
        assert str(Endpoint.parse(text)) == text
    assert Endpoint.parse("UNIX:///a#7").address == UnixAddress("/a", 7)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("run/a.sock", "absolute path"),
        ("", "absolute path"),
        ("/", "absolute path"),
        ("/run/", "absolute path"),
        ("/run/a#b", "absolute path"),
        ("/run/a#0", "absolute path"),
        ("/run/\0", "absolute path"),
        ("/" + "a" * 107, "108 bytes, at most 107"),
        ("/" + "ä" * 54, "109 bytes, at most 107"),
        ("/\udcff", "UTF-8"),
    ],
)
def test_path_that_no_unix_socket_can_have_is_refused_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(EndpointError, match=reason):
        Endpoint.parse(f"unix://{path}")


def test_longest_path_is_taken() -> None:
    assert str(UnixAddress("/" + "a" * 106)) == "/" + "a" * 106
