"""Fetching from a real server that breaks off, fails, lies or leads elsewhere: the right bytes, or a clear error."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from genpipe.data.addresses import checked, public
from genpipe.data.download import MIRROR, Downloading, Remote, fetch
from genpipe.errors import DataError
from tests.servers import failing, leading_to, serving, whole

CONTENT = os.urandom(3_000_000)
SUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
HOW = Downloading(allow_private=True, pause_seconds=0, timeout_seconds=5)


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MIRROR, "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def remote(*urls: str, checksums: tuple[str, ...] = (SUM,)) -> Remote:
    return Remote("data.bin", urls, checksums)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_a_file_is_fetched_once_and_again_when_it_was_damaged(tmp_path: Path) -> None:
    with serving({"/data.bin": whole(CONTENT)}) as (url, asked):
        file = fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW)
        assert file.read_bytes() == CONTENT
        fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW)
        assert len(asked) == 1
        file.write_bytes(CONTENT[:-1])
        assert fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW).read_bytes() == CONTENT
    assert names(tmp_path) == ["data.bin"]


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_one_of_several_checksums_is_enough(tmp_path: Path, algorithm: str) -> None:
    right = f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest().upper()}"
    with serving({"/data.bin": whole(CONTENT)}) as (url, _):
        found = fetch(remote(f"{url}/data.bin", checksums=("sha256:" + "0" * 64, right)), "set", tmp_path, HOW)
    assert found.read_bytes() == CONTENT


def test_a_connection_that_breaks_is_resumed_where_it_broke(tmp_path: Path) -> None:
    with serving({"/data.bin": whole(CONTENT, stop_after=2_000_000)}) as (url, asked):
        assert fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW).read_bytes() == CONTENT
    assert [headers.get("Range") for _, headers in asked] == [None, "bytes=2000000-"]
    assert names(tmp_path) == ["data.bin"]


def test_a_later_call_resumes_what_an_earlier_one_began(tmp_path: Path) -> None:
    with serving({"/data.bin": whole(CONTENT, stop_after=1_000_000)}) as (url, asked):
        place = remote(f"{url}/data.bin")
        with pytest.raises(DataError, match="the connection failed"):
            fetch(place, "set", tmp_path, Downloading(allow_private=True, attempts=1))
        assert names(tmp_path) == ["data.bin.part", "data.bin.part.json"]
        fetch(place, "set", tmp_path, HOW)
    assert asked[1][1]["Range"] == "bytes=1000000-"


def test_a_killed_download_goes_on_where_it_was(tmp_path: Path) -> None:
    stuck, code = (
        Event(),
        (
            "import sys; from pathlib import Path; from genpipe.data.download import *\n"
            "fetch(Remote('data.bin', (sys.argv[1],), (sys.argv[2],)), 'set', Path(sys.argv[3]),"
            " Downloading(allow_private=True))"
        ),
    )
    with serving({"/data.bin": whole(CONTENT, stop_after=1_000_000, until=stuck)}) as (url, asked):
        words = [sys.executable, "-c", code, f"{url}/data.bin", SUM, str(tmp_path)]
        with subprocess.Popen(words) as child:
            while not (tmp_path / "data.bin.part").exists() or (tmp_path / "data.bin.part").stat().st_size < 500_000:
                assert child.poll() is None
                time.sleep(0.01)
            child.kill()
        stuck.set()
        assert names(tmp_path) == ["data.bin.part", "data.bin.part.json"]
        assert fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW).read_bytes() == CONTENT
    assert int(asked[1][1]["Range"].removeprefix("bytes=").rstrip("-")) >= 500_000


@pytest.mark.parametrize(("careless", "requests"), [(False, 1), (True, 2)])
def test_a_file_that_changed_meanwhile_is_fetched_anew(tmp_path: Path, careless: bool, requests: int) -> None:
    with serving({"/data.bin": whole(CONTENT, tag='"v2"', careless=careless)}) as (url, asked):
        (tmp_path / "data.bin.part").write_bytes(b"old")
        note = {"url": f"{url}/data.bin", "version": '"v1"'}
        (tmp_path / "data.bin.part.json").write_text(json.dumps(note))
        assert fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW).read_bytes() == CONTENT
    assert [headers.get("If-Range") for _, headers in asked] == ['"v1"', None][:requests]


def test_a_part_that_goes_on_wrongly_is_fetched_anew(tmp_path: Path) -> None:
    """The server says that it is the same version, and it is not."""
    with serving({"/data.bin": whole(CONTENT)}) as (url, asked):
        (tmp_path / "data.bin.part").write_bytes(b"damaged")
        note = {"url": f"{url}/data.bin", "version": '"v1"'}
        (tmp_path / "data.bin.part.json").write_text(json.dumps(note))
        assert fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW).read_bytes() == CONTENT
    assert [headers.get("Range") for _, headers in asked] == ["bytes=7-", None]


def test_a_server_without_ranges_sends_all_of_it_again(tmp_path: Path) -> None:
    with serving({"/data.bin": whole(CONTENT, ranges=False, stop_after=2_000_000)}) as (url, _):
        assert fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW).read_bytes() == CONTENT


def test_a_server_that_fails_twice_is_asked_a_third_time(tmp_path: Path) -> None:
    with serving({"/data.bin": failing(2, 500, whole(CONTENT))}) as (url, asked):
        fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW)
    assert len(asked) == 3


def test_the_wrong_content_is_told_with_both_checksums_and_not_kept(tmp_path: Path) -> None:
    got = hashlib.sha256(b"other").hexdigest()
    with serving({"/data.bin": whole(b"other")}) as (url, asked):
        with pytest.raises(DataError, match=rf"(?s){url}/data.bin: not the file that is meant.*{got}, expected {SUM}"):
            fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW)
        assert len(asked) == 1  # asking again would give the same
    assert names(tmp_path) == []


def test_places_are_asked_in_turn_and_all_failures_told(tmp_path: Path) -> None:
    with serving({"/good": whole(CONTENT), "/bad": whole(b"bad")}) as (url, asked):
        fetch(remote(f"{url}/absent", f"{url}/bad", f"{url}/good"), "set", tmp_path, HOW)
        assert [path for path, _ in asked] == ["/absent", "/bad", "/good"]
        (tmp_path / "data.bin").unlink()
        with pytest.raises(DataError) as caught:
            fetch(remote(f"{url}/absent", f"{url}/bad"), "set", tmp_path, HOW)
    first, absent, bad, advice = str(caught.value).splitlines()
    assert first == "set: data.bin could not be fetched"
    assert f"{url}/absent: answered 404 Not Found" in absent
    assert f"{url}/bad: not the file that is meant" in bad
    assert f"set {MIRROR}=<folder>" in advice


def test_what_may_be_secret_in_a_url_is_not_told(tmp_path: Path) -> None:
    with serving({}) as (url, _):
        place = url.replace("http://", "http://me:password@") + "/data.bin?signature=secret"
        with pytest.raises(DataError, match=r"/data\.bin: answered 404") as caught:
            fetch(remote(place), "set", tmp_path, HOW)
    assert "password" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/data.bin"
        with pytest.raises(DataError, match=rf"{url}: the connection failed \(.*refused"):
            fetch(remote(url), "set", tmp_path, HOW)


def test_a_mirror_folder_is_looked_in_first_and_checked_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, folder = tmp_path / "mirror", tmp_path / "files"
    (mirror / "set").mkdir(parents=True)
    monkeypatch.setenv(MIRROR, str(mirror))
    with serving({"/data.bin": whole(CONTENT)}) as (url, asked):
        (mirror / "set" / "data.bin").write_bytes(CONTENT)
        fetch(remote(f"{url}/data.bin"), "set", folder, HOW)
        assert asked == []
        (folder / "data.bin").unlink()
        (mirror / "set" / "data.bin").write_bytes(b"other")
        assert fetch(remote(f"{url}/data.bin"), "set", folder, HOW).read_bytes() == CONTENT
        assert len(asked) == 1


def test_a_mirror_folder_is_seen_from_the_projects_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirror" / "set").mkdir(parents=True)
    (tmp_path / "mirror" / "set" / "data.bin").write_bytes(CONTENT)
    monkeypatch.setenv(MIRROR, "mirror")
    assert fetch(remote(), "set", tmp_path / "files", HOW, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("broken", ["http://127.0.0.1:99999/x", "http://[::1/x", "http://127.0.0.1:port/x"])
def test_after_a_place_that_is_no_url_the_next_is_asked(tmp_path: Path, broken: str) -> None:
    with serving({"/data.bin": whole(CONTENT), "/away": leading_to(broken)}) as (url, _):
        good = f"{url}/data.bin"
        assert fetch(remote(broken, good), "set", tmp_path / "direct", HOW).read_bytes() == CONTENT
        assert fetch(remote(f"{url}/away", good), "set", tmp_path / "led", HOW).read_bytes() == CONTENT
        with pytest.raises(DataError, match=r"x: no valid URL"):
            fetch(remote(broken), "set", tmp_path / "none", HOW)


def test_a_mirror_may_be_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({"/base/set/data.bin": whole(CONTENT)}) as (url, asked):
        monkeypatch.setenv(MIRROR, f"{url}/base/")
        fetch(remote(f"{url}/data.bin"), "set", tmp_path, HOW)
        assert [path for path, _ in asked] == ["/base/set/data.bin"]


def test_private_addresses_are_refused_unless_allowed(tmp_path: Path) -> None:
    with serving({"/data.bin": whole(CONTENT)}) as (url, asked):
        for place in (f"{url}/data.bin", url.replace("127.0.0.1", "localhost"), "http://10.0.0.1/x", "http://[::1]/x"):
            with pytest.raises(DataError, match=r"no public address.*ingest\.source\.download\.allow_private"):
                fetch(remote(place), "set", tmp_path, Downloading())
        assert asked == []


def test_a_redirect_is_followed_and_checked_like_the_first_url(tmp_path: Path) -> None:
    with serving({"/data.bin": whole(CONTENT)}) as (inner, seen):
        answers = {"/here": leading_to("/there"), "/there": leading_to(f"{inner}/data.bin")}
        answers["/loop"] = leading_to("/loop")
        with serving(answers) as (url, asked):
            assert fetch(remote(f"{url}/here"), "set", tmp_path, HOW).read_bytes() == CONTENT
            assert [path for path, _ in asked] == ["/here", "/there"]
            assert seen[0][1]["Host"] == inner.removeprefix("http://")
            with pytest.raises(DataError, match="redirected more than 10 times"):
                fetch(remote(f"{url}/loop"), "loop", tmp_path / "loop", HOW)


def test_a_redirect_to_a_private_address_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first server has a public name, since a proxy answers for it."""
    with serving({"/data.bin": whole(CONTENT)}) as (inner, seen):
        answers = {"http://files.example/data.bin": leading_to(f"{inner}/data.bin")}
        with serving(answers) as (proxy, asked):
            monkeypatch.setenv("http_proxy", proxy)
            with pytest.raises(DataError, match=r"leads to 127\.0\.0\.1, which is no public address"):
                fetch(remote("http://files.example/data.bin"), "set", tmp_path, Downloading(pause_seconds=0))
            assert len(asked) == 1
        assert seen == []
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["ftp://files.example/x", "file:///etc/passwd", "data.bin", "https:///x"])
def test_only_the_web_is_asked(url: str) -> None:
    with pytest.raises(DataError, match="a URL begins with https:// or http://"):
        checked(url, 0, private=True)


def test_which_addresses_are_public() -> None:
    inner = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"]
    inner += ["::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::"]
    inner += ["224.0.0.1", "ff0e::1"]
    assert [address for address in inner if public(address)] == []
    outer = ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
    assert [address for address in outer if not public(address)] == []


def test_the_name_is_proved_and_sent_though_the_address_is_asked() -> None:
    target = checked("https://localhost:8443/a%20b?c=d", 0, private=True)
    assert target.url.host in ("127.0.0.1", "::1")
    assert (target.url.port, target.url.raw_path) == (8443, b"/a%20b?c=d")
    assert target.headers == {"Host": "localhost:8443"}
    assert target.extensions == {"sni_hostname": "localhost"}


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for `localhost`, with its key in the same file."""
    file = tmp_path / "localhost.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    subprocess.run([*words, "-keyout", file, "-out", tmp_path / "cert"], check=True, capture_output=True)
    file.write_text(file.read_text() + (tmp_path / "cert").read_text())
    return file


def test_a_server_proves_its_name_though_it_is_asked_by_address(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving({"/data.bin": whole(CONTENT)}, certificate) as (url, _):
        fetch(remote(url.replace("127.0.0.1", "localhost") + "/data.bin"), "set", tmp_path / "right", HOW)
        with pytest.raises(DataError, match="certificate verify failed"):
            fetch(remote(f"{url}/data.bin"), "set", tmp_path / "wrong", HOW)  # it is none for 127.0.0.1


def test_a_file_larger_than_allowed_is_not_fetched(tmp_path: Path) -> None:
    with serving({"/data.bin": whole(CONTENT)}) as (url, _), pytest.raises(DataError, match="larger than 1000 bytes"):
        fetch(remote(f"{url}/data.bin"), "set", tmp_path, Downloading(allow_private=True, max_bytes=1000))


def test_a_full_disk_is_told_and_what_was_there_is_left(tmp_path: Path) -> None:
    """The limit on a file's size makes the system refuse to write, as a full disk does."""
    (tmp_path / "earlier.bin").write_bytes(b"whole")
    code = (
        "import resource, sys; from pathlib import Path; from genpipe.data.download import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "try: fetch(Remote('data.bin', (sys.argv[1],), (sys.argv[2],)), 'set', Path(sys.argv[3]),"
        " Downloading(allow_private=True))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    with serving({"/data.bin": whole(CONTENT)}) as (url, _):
        words = [sys.executable, "-c", code, f"{url}/data.bin", SUM, str(tmp_path)]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.startswith("DataError no room to write")
    assert names(tmp_path) == ["earlier.bin"]
