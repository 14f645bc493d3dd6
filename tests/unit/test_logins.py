"""Users and passwords at SOCKS5 proxies: read in any form, shown in none."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime.passwordfile import read_passwords
from protocol.logins import Login, LoginError, Passwords, parse_passwords, without_secret
from protocol.mycelium.endpoint import EndpointError
from protocol.targets import Target, TargetError
from septate.cli.root import septate
from septate.config import ConfigError, NodeConfig, Settings
from septate.config_file import parse_settings

SECRET = "geheim"


@pytest.mark.parametrize(
    ("written", "user", "password", "shown"),
    [
        ("anna", "anna", None, "anna"),
        ("anna:geheim", "anna", "geheim", "anna"),
        ("a%40b:p%2Fw%25:x", "a@b", "p/w%:x", "a%40b"),
        ("f%C3%B6hn:%C3%9F", "föhn", "ß", "f%C3%B6hn"),
    ],
)
def test_login_is_read_and_shown_without_its_password(
    written: str, user: str, password: str | None, shown: str
) -> None:
    login = Login.parse(written)
    assert (login.user, login.password, str(login)) == (user, password, shown)
    assert Login.parse(login.spelled()) == login
    assert password is None or password not in repr(login)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (":geheim", "the user of a SOCKS5 proxy has 1 to 255 bytes, not 0"),
        ("anna:", "the password of a SOCKS5 proxy has 1 to 255 bytes, not 0"),
        ("anna:" + "geheim" * 43, "the password of a SOCKS5 proxy has 1 to 255 bytes, not 258"),
        ("anna:geheim%FF", "UTF-8"),
        ("anna:geheim\ud800", "can't be written as UTF-8"),
    ],
)
def test_login_that_no_proxy_could_be_given_is_refused_and_not_quoted(written: str, reason: str) -> None:
    with pytest.raises(LoginError, match=reason) as caught:
        Login.parse(written)
    assert SECRET not in str(caught.value)


def test_peer_behind_a_proxy_is_shown_with_its_user_and_spelled_with_its_password() -> None:
    target = Target.parse("socks://Anna:ge%2Fheim@Proxy:1080/peer:9651")
    assert str(target) == "socks://Anna@proxy:1080/peer:9651"
    assert target.spelled() == "socks://Anna:ge%2Fheim@proxy:1080/peer:9651"
    assert Target.parse(target.spelled()) == target
    assert "ge/heim" not in repr(target)
    assert target.way == "Anna@proxy:1080"


MALFORMED = [
    "socks://anna:geheim@proxy:1080",
    "socks://anna:geheim@proxy/peer:1",
    "socks://anna:geheim@proxy:1080/peer",
    "socks://anna:geheim@:1080/peer:1",
    "socks://anna:geheim/x@proxy:1080/peer:1",
    "socks://:geheim@proxy:1080/peer:1",
    "tcp://anna:geheim@peer:9651",
    "anna:geheim@peer:9651",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_no_error_about_a_peer_quotes_a_password(text: str) -> None:
    with pytest.raises((TargetError, EndpointError)) as caught:
        Target.parse(text)
    assert SECRET not in str(caught.value)
    for key in ("named_peers", "peers"):
        with pytest.raises(ConfigError) as refused:
            parse_settings({key: [text]}, "mycelium.toml")
        assert SECRET not in str(refused.value)
        with pytest.raises(ConfigError) as odd:
            parse_settings({key: {"a": text}}, "mycelium.toml")
        assert SECRET not in str(odd.value)
    for option in ("--named-peer", "--peers"):
        done = CliRunner().invoke(septate, [option, text])
        assert done.exit_code == 2
        assert SECRET not in done.output


def test_configuration_shows_no_password_when_it_is_printed() -> None:
    peer = "socks://anna:geheim@proxy:1080/peer:9651"
    assert SECRET not in repr(Settings(named_peers=(peer,)))
    assert SECRET not in repr(NodeConfig(key_file=Path("key"), make_key_folder=False, peers=(peer,)))


@given(st.text(max_size=60).map("socks://u:geheim@".__add__) | st.text(max_size=60).map("socks://".__add__))
def test_any_text_with_a_login_is_a_target_that_can_be_spelled_or_an_error(text: str) -> None:
    with contextlib.suppress(TargetError, EndpointError):
        target = Target.parse(text)
        assert Target.parse(target.spelled()) == target
        assert Target.parse(str(target)).spelled() == str(target)


def test_what_may_be_a_secret_is_cut_out_of_any_text() -> None:
    assert without_secret("socks://u:p@ss@proxy:1/x:1") == "***@proxy:1/x:1"
    assert without_secret("tcp://192.0.2.1:9651") == "tcp://192.0.2.1:9651"


def test_file_has_passwords_by_user_and_proxy() -> None:
    text = "# ours\n\nanna@Proxy:1080 ge heim \r\nb%40c@[2001:db8::1]:1080 x\n"
    assert parse_passwords(text) == {"anna@proxy:1080": "ge heim ", "b%40c@[2001:db8::1]:1080": "x"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("anna@proxy:1080", "line 1: the password of a SOCKS5 proxy has 1 to 255 bytes, not 0"),
        ("\nproxy:1080 geheim", "line 2: the user"),
        ("anna@ geheim", "line 1 names no proxy"),
        ("\n" * 4096, "more than 4096 lines"),
    ],
)
def test_file_that_says_something_else_is_an_error_that_names_the_line_alone(text: str, reason: str) -> None:
    with pytest.raises(LoginError, match=reason) as caught:
        parse_passwords(text)
    assert SECRET not in str(caught.value)


def test_password_given_with_a_peer_comes_before_that_of_the_file() -> None:
    passwords = Passwords({"anna@proxy:1080": "filed"})
    login = Login("anna")
    assert passwords.complete("a peer", login, "proxy:1080").password == "filed"
    passwords.keep("a peer", Login("anna", "given"))
    passwords.keep("another", Login("anna"))
    assert passwords.complete("a peer", login, "proxy:1080").password == "given"
    assert passwords.given("a peer", login) == Login("anna", "given")
    assert passwords.complete("another", login, "proxy:1080").password == "filed"
    passwords.forget("a peer")
    assert passwords.complete("a peer", login, "proxy:1080").password == "filed"


def test_missing_password_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(LoginError, match="no password for anna@proxy:1: give one as USER:PASSWORD"):
        read_passwords(None).complete("peer", Login("anna"), "proxy:1")
    place = tmp_path / "passwords"
    for content, reason in (
        (None, "cannot read"),
        (b"\xff", "not UTF-8"),
        (b"geheim", "line 1"),
        (b"#" * 2**21, "1048576"),
    ):
        if content is not None:
            place.write_bytes(content)
        with pytest.raises(LoginError, match=reason) as caught:
            read_passwords(place).complete("peer", Login("anna"), "proxy:1")
        assert str(place) in str(caught.value)
        assert str(place) in read_passwords(place).remark
        assert SECRET not in str(caught.value)
    place.write_bytes(b"anna@proxy:1 right\n")
    for mode, remark in ((0o600, ""), (0o644, f"everybody may read {place}; make that harder: chmod o-rwx")):
        place.chmod(mode)
        found = read_passwords(place)
        assert found.complete("peer", Login("anna"), "proxy:1").password == "right"
        assert found.remark == remark
