"""The command line against recorded runs of the reference: what is printed, exit codes, files."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from septate.cli.root import septate
from tests.unit.recorded import differences, fill, load
from tests.unit.test_status_api import served, variables

CASES = load("recorded_cli.json")["cases"]
GROUPS = sorted({case["id"].split(".")[1] for case in CASES})

DEVIATIONS = {
    "cli.generate.silent": "a new key file has mode 0600, not 0640",
    "cli.generate.force": "an overwritten key file loses the rights of others",
}
"""Where we mean to differ: only the modes of files are left out of the comparison."""

LEFT_OUT = {"cli.general.private_options": "ours is both programs of the reference: it knows private networks"}


class _NoApi(BaseHTTPRequestHandler):
    """What the JSON-RPC server of the reference says to calls of the HTTP API."""

    def do_GET(self) -> None:
        body = b"Used HTTP Method is not allowed. POST is required\n"
        self.send_response(405)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, str]]:
    stranger = ThreadingHTTPServer(("127.0.0.1", 0), _NoApi)
    thread = Thread(target=stranger.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    with served("A") as first, served("B") as second:
        yield {
            "A.api": f"127.0.0.1:{first.port}",
            "B.api": f"127.0.0.1:{second.port}",
            "stranger": f"127.0.0.1:{stranger.server_port}",
        }
    stranger.shutdown()
    thread.join()
    stranger.server_close()


def _run(
    case: dict[str, Any], folder: Path, places: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    request = fill(
        case["request"],
        variables() | places | {"TMP": str(folder), "A.under": places["stranger"].rpartition(":")[0]},
    )
    argv = [re.sub(r"^127\.0\.0\.1:8990$", places["stranger"], word) for word in request["argv"]]
    for name, content in request.get("files", {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else base64.b64decode(content["base64"]))
            path.chmod(0o644)
    unset = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_DATA_HOME", "RUST_LOG"))
    environment = unset | {"HOME": str(folder / "home"), "NO_COLOR": "1"} | request.get("env", {})
    result = CliRunner(env=environment).invoke(septate, argv, prog_name="septate")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    answer = {"exit": result.exit_code, "stdout": result.stdout, "stderr": result.stderr + capfd.readouterr().err}
    shown = {name: _shown(folder / name) for name in request.get("show_files", [])}
    return answer | ({"files": shown} if shown else {})


def _shown(path: Path) -> Any:
    if not path.exists():
        return None
    if path.is_dir():
        return {"directory": True}
    data = path.read_bytes()
    mode = f"{path.stat().st_mode & 0o7777:04o}"
    try:
        return {"text": data.decode(), "mode": mode}
    except UnicodeDecodeError:
        return {"hex": data.hex(), "mode": mode}


@pytest.fixture(autouse=True)
def _forget_where_lines_were_logged() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("group", GROUPS)
def test_runs_are_those_of_the_reference(
    group: str,
    tmp_path: Path,
    places: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "key.bin").write_bytes(b"septate vector throw-away key 01")
    for case in CASES:
        if case["id"].split(".")[1] != group or case["id"] in LEFT_OUT:
            continue
        answer = _run(case, tmp_path, places, capfd)
        expected = fill(case["response"], variables() | places | {"TMP": str(tmp_path)})
        if case["id"] in DEVIATIONS:
            for side in (answer, expected):
                for file in side["files"].values():
                    file.pop("mode")
        problems = differences(case, expected, answer)
        assert not problems, f"{case['id']}: {case['about']}: {case['request']['argv']}: {problems} {answer}"
