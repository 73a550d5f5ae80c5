"""Downloads from paths and from a server on this machine that cuts connections, knows no ranges, changes its files."""

import hashlib
import http.server
import io
import re
import shutil
import sys
import tarfile
import threading

import pytest

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100 import fetch as fetch_module
from fairseq_plugins.opus100.__main__ import main
from fairseq_plugins.opus100.corpus import find_pairs
from fairseq_plugins.opus100.download import LANGUAGES, UNTESTED_PAIRS, supervised_pairs, zero_shot_pairs
from fairseq_plugins.opus100.fetch import NotThere, fetch
from tests.opus100.corpora import read_all, write_corpus

ARCHIVE = "opus-100-corpus-v1.0.tar.gz"


class Server:
    """Serves ``files``; answers end after ``cut`` bytes if set, ``ranges`` says whether it can resume."""

    def __init__(self):
        self.files, self.cut, self.ranges, self.requests, self.failures = {}, None, True, [], []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                owner.requests.append((self.path, self.headers.get("Range")))
                if owner.failures:
                    return self.send_error(owner.failures.pop())
                data = owner.files.get(self.path.lstrip("/"))
                if data is None:
                    return self.send_error(404)
                tag = f'"{hashlib.md5(data).hexdigest()}"'
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
                start = 0
                if owner.ranges and wanted and self.headers.get("If-Range") == tag:
                    start = int(wanted[1])
                    if start >= len(data):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(data)}")
                        self.send_header("Content-Length", "0")
                        return self.end_headers()
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - start))
                self.send_header("ETag", tag)
                self.end_headers()
                body = data[start:]
                if owner.cut is not None and owner.cut < len(body):
                    self.wfile.write(body[: owner.cut])
                    self.close_connection = True
                    return None
                return self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch_module.time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.close()


DATA = bytes(range(256)) * 40


def get(server, target, **options):
    fetch(f"{server.url}/file", target, wait=lambda seconds: None, **options)
    return target.read_bytes()


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    server.files["file"] = DATA
    assert get(server, tmp_path / "x") == get(server, tmp_path / "x") == DATA
    assert len(server.requests) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_cut_connection_is_resumed_where_it_ended(server, tmp_path):
    server.files["file"], server.cut = DATA, 4000
    assert get(server, tmp_path / "x") == DATA
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-", "bytes=8000-"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.files["file"], server.cut, server.ranges = DATA, 4000, False
    with pytest.raises(UserError, match="ended after 4,000 of 10,240 bytes, 6 times in a row"):
        get(server, tmp_path / "x")
    server.cut = None
    assert get(server, tmp_path / "x") == DATA


def test_an_interrupted_command_goes_on_in_the_next_run(server, tmp_path, monkeypatch):
    server.files["file"] = DATA
    monkeypatch.setattr(fetch_module, "_BLOCK", 1000)
    real, blocks = fetch_module._read, []

    def stop(stream):
        blocks.append(1)
        if len(blocks) == 6:
            raise KeyboardInterrupt
        return real(stream)

    monkeypatch.setattr(fetch_module, "_read", stop)
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path / "x")
    assert get(server, tmp_path / "x") == DATA
    assert server.requests[-1][1] == "bytes=5000-"


def test_a_file_that_changed_on_the_server_is_not_glued_to_its_old_half(server, tmp_path):
    server.files["file"], server.cut = DATA, 4000

    def change(seconds):
        server.files["file"], server.cut = DATA[::-1], None

    fetch(f"{server.url}/file", tmp_path / "x", wait=change)
    assert (tmp_path / "x").read_bytes() == DATA[::-1]
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-"]


def test_a_part_that_is_complete_already_is_recognised(server, tmp_path):
    server.files["file"] = DATA
    tag = f'"{hashlib.md5(DATA).hexdigest()}"'
    (tmp_path / "x.part").write_bytes(DATA)
    fetch_module.write_json(tmp_path / "x.part.json", {"url": f"{server.url}/file", "version": tag})
    assert get(server, tmp_path / "x") == DATA
    assert server.requests == [("/file", f"bytes={len(DATA)}-")]


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.files["file"], server.failures = DATA, [503, 429]
    assert get(server, tmp_path / "x") == DATA


def test_the_hash_is_checked_and_a_wrong_file_thrown_away(server, tmp_path):
    server.files["file"] = DATA
    with pytest.raises(UserError, match="sha256 is .*, not 00"):
        get(server, tmp_path / "x", sha256="00" * 32)
    assert not list(tmp_path.iterdir())
    assert get(server, tmp_path / "x", sha256=hashlib.sha256(DATA).hexdigest().upper()) == DATA


def test_the_hash_of_a_file_that_is_here_already_is_checked(server, tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    assert get(server, tmp_path / "x", sha256=hashlib.sha256(DATA).hexdigest().upper()) == DATA
    with pytest.raises(UserError, match="x: sha256 is .*, not 00.*; remove it or correct --sha256"):
        get(server, tmp_path / "x", sha256="00" * 32)
    assert (tmp_path / "x").read_bytes() == DATA and not server.requests


def test_what_is_not_there_and_who_cannot_be_reached_is_one_sentence(server, tmp_path):
    with pytest.raises(NotThere, match=r"/file: the server has no such file \(404\)"):
        get(server, tmp_path / "x")
    with pytest.raises(NotThere, match="is not a file"):
        fetch(str(tmp_path / "nothing"), tmp_path / "x")
    with pytest.raises(UserError, match="127.0.0.1:9 cannot be reached"):
        fetch("http://127.0.0.1:9/file", tmp_path / "x")
    with pytest.raises(UserError, match="no-such-host.invalid cannot be reached"):
        fetch("http://no-such-host.invalid/file", tmp_path / "x")
    for status in (401, 403):
        server.failures = [status]
        with pytest.raises(UserError, match=f"server answered {status}") as refused:
            get(server, tmp_path / "x")
        assert refused.type is UserError, "a refusal does not say that the file is not there"


def test_too_little_disk_space_is_known_before_anything_is_written(server, tmp_path, monkeypatch):
    server.files["file"] = DATA
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(UserError, match="MB free"):
        get(server, tmp_path / "x")
    assert not list(tmp_path.iterdir())


# ---- the verb --------------------------------------------------------------------------------------------------------


def archive_of(root, *below, prefix=""):
    """The tarball of a corpus, as bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name in below or ("opus-100-corpus",):
            tar.add(root / name, arcname=f"{prefix}{name}")
    return stream.getvalue()


@pytest.fixture
def source(tmp_path):
    return write_corpus(tmp_path / "source")


def download(out, url, *words):
    return main(["download", "--out", str(out), "--base-url", str(url), *map(str, words)])


def corpus_of(out):
    return read_all(out / "opus-100-corpus")


def test_the_whole_corpus_from_a_folder(source, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(archive_of(source))
    for url in (tmp_path, tmp_path.as_uri()):
        out = tmp_path / ("a" if url == tmp_path else "b")
        assert download(out, url) == 0
        assert corpus_of(out) == corpus_of(source)
        assert sorted(path.name for path in out.iterdir()) == ["download.json", "opus-100-corpus"]


def test_the_whole_corpus_over_a_connection_that_breaks(source, tmp_path, server):
    server.files[ARCHIVE] = archive_of(source)
    server.cut = (len(server.files[ARCHIVE]) - 1) // 3  # always three answers and a rest
    assert download(tmp_path / "out", server.url) == 0
    assert corpus_of(tmp_path / "out") == corpus_of(source)
    assert len(server.requests) == 4


def test_the_same_command_again_fetches_nothing(source, tmp_path, server):
    server.files[ARCHIVE] = archive_of(source)
    download(tmp_path / "out", server.url)
    before = read_all(tmp_path / "out")
    assert download(tmp_path / "out", server.url) == 0
    assert len(server.requests) == 1 and read_all(tmp_path / "out") == before
    find_pairs(tmp_path / "out")["de-en"].files["train"][0].unlink()
    assert download(tmp_path / "out", server.url) == 0
    assert read_all(tmp_path / "out") == before


def test_single_pairs_and_the_zero_shot_archive(source, tmp_path, server):
    level = "opus-100-corpus/v1.0"
    pair = archive_of(source, f"{level}/supervised/en-fr")
    server.files["opus-100-corpus-en-fr-v1.0.tar.gz"] = pair
    server.files["opus-100-corpus-zeroshot-v1.0.tar.gz"] = archive_of(source, f"{level}/zero-shot")
    assert download(tmp_path / "out", server.url, "--pairs", "fr-en,de-fr") == 0
    assert {name: pair.kind for name, pair in find_pairs(tmp_path / "out").items()} == {
        "en-fr": "supervised", "de-fr": "zero-shot", "fr-ru": "zero-shot"
    }  # fmt: skip
    assert download(tmp_path / "out", server.url, "--pairs", "en-xx") == 2


def test_an_archive_with_other_folders_lands_in_the_layout(source, tmp_path):
    folder = source / "opus-100-corpus/v1.0/supervised"
    (tmp_path / "opus-100-corpus-en-fr-v1.0.tar.gz").write_bytes(archive_of(folder, "en-fr", prefix="./some/where/"))
    assert download(tmp_path / "out", tmp_path, "--pairs", "en-fr") == 0
    assert find_pairs(tmp_path / "out")["en-fr"].kind == "supervised"


def evil_archive(name, kind=tarfile.REGTYPE, link=""):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(b"evil"))
    return stream.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        evil_archive("../../opus.de-en-train.de"),
        evil_archive("opus.de-en-train.de", tarfile.SYMTYPE, "/etc/passwd"),
        evil_archive("opus.de-en-train.de", tarfile.SYMTYPE, "inside"),
        evil_archive("device", tarfile.CHRTYPE),
    ],
    ids=["escapes", "links-out", "links-in", "device"],  # bytes hold the time, and an id must not change between runs
)
def test_an_archive_that_escapes_or_links_is_refused(tmp_path, capsys, archive):
    (tmp_path / ARCHIVE).write_bytes(archive)
    assert download(tmp_path / "deep" / "er" / "out", tmp_path) == 2
    assert "is not to be trusted" in capsys.readouterr().err
    assert not [name for name in read_all(tmp_path) if "opus.de-en" in name]


def test_a_python_that_cannot_unpack_safely_says_so_before_anything_is_fetched(tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(tarfile, "data_filter")
    assert download(tmp_path / "out", tmp_path) == 2
    assert "cannot unpack archives safely; use Python 3.11.4 or later, or --parquet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_archive_is_thrown_away_and_fetched_again(source, tmp_path, capsys):
    whole = archive_of(source)
    (tmp_path / ARCHIVE).write_bytes(whole[: len(whole) // 2])
    assert download(tmp_path / "out", tmp_path) == 2
    assert "is damaged and was removed" in capsys.readouterr().err
    (tmp_path / ARCHIVE).write_bytes(whole)
    assert download(tmp_path / "out", tmp_path) == 0
    assert corpus_of(tmp_path / "out") == corpus_of(source)


def test_archives_can_be_kept_and_are_used_again(source, tmp_path, server):
    server.files[ARCHIVE] = archive_of(source)
    assert download(tmp_path / "out", server.url, "--keep-archives") == 0
    assert (tmp_path / "out" / ARCHIVE).read_bytes() == server.files[ARCHIVE]
    shutil.rmtree(tmp_path / "out" / "opus-100-corpus")
    assert download(tmp_path / "out", server.url) == 0
    assert len(server.requests) == 1 and corpus_of(tmp_path / "out") == corpus_of(source)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert download(tmp_path / "file" / "out", tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def write_parquet(folder, pair, split, rows):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (folder / pair).mkdir(parents=True, exist_ok=True)
    a, b = pair.split("-")
    translations = [{a: first, b: second} for first, second in rows]
    path = folder / pair / f"{split}-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table({"translation": translations}), path)


def test_parquet_files_become_the_same_layout(tmp_path):
    rows = [("ja\u2028 gut", "yes\r well"), ("zwei\nZeilen", "two lines"), ("", "blank")]
    for split in ("train", "validation", "test"):
        write_parquet(tmp_path / "hub", "de-en", split, rows)
    write_parquet(tmp_path / "hub", "de-fr", "test", rows[:1])
    words = ["--parquet", "--parquet-url", tmp_path / "hub", "--pairs", "en-de,de-fr"]
    assert download(tmp_path / "out", "unused", *words) == 0
    pairs = find_pairs(tmp_path / "out")
    assert pairs["de-en"].files["dev"][0].read_bytes() == "ja\u2028 gut\nzwei Zeilen\n\n".encode()
    assert pairs["de-en"].files["train"][1].read_bytes() == b"yes\r well\ntwo lines\nblank\n"
    assert (pairs["de-fr"].kind, list(pairs["de-fr"].files)) == ("zero-shot", ["test"])
    shutil.rmtree(tmp_path / "hub")
    assert download(tmp_path / "out", "unused", *words) == 0, "what is here is not fetched again"


def test_parquet_without_pyarrow_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert download(tmp_path / "out", "unused", "--parquet", "--pairs", "de-en") == 2
    assert "--parquet needs pyarrow: pip install pyarrow" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["train", "validation", "test"])
@pytest.mark.parametrize("status", [404, 403])
def test_a_missing_or_refused_parquet_file_does_not_change_what_a_pair_is(tmp_path, server, capsys, missing, status):
    for split in ("train", "validation", "test"):
        write_parquet(tmp_path / "hub", "de-en", split, [("ja", "yes")])
    server.files = {name: data for name, data in read_all(tmp_path / "hub").items() if missing not in name}
    if status == 403:  # answers are taken from the end
        server.failures = [403]
    words = ["--parquet", "--parquet-url", server.url, "--pairs", "de-en"]
    assert download(tmp_path / "out", "unused", *words) == 2
    refused = "train" if status == 403 else missing
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert f"de-en/{refused}-00000-of-00001.parquet: the server" in error and str(status) in error
    assert not (tmp_path / "out" / "opus-100-corpus").exists() and not (tmp_path / "out" / "download.json").exists()
    server.files = read_all(tmp_path / "hub")
    assert download(tmp_path / "out", "unused", *words) == 0
    assert sorted(find_pairs(tmp_path / "out")["de-en"].files) == ["dev", "test", "train"]


def test_five_pairs_have_a_train_set_only(tmp_path):
    write_parquet(tmp_path / "hub", "en-yo", "train", [("yes", "beeni")])
    words = ["--parquet", "--parquet-url", tmp_path / "hub", "--pairs", "en-yo"]
    assert download(tmp_path / "out", "unused", *words) == 0
    pair = find_pairs(tmp_path / "out")["en-yo"]
    assert (pair.kind, list(pair.files)) == ("supervised", ["train"])


def test_the_lists_have_the_sizes_of_the_release():
    assert len(set(LANGUAGES)) == 99 and "en" not in LANGUAGES
    assert len(supervised_pairs()) == 99 and len(zero_shot_pairs()) == 15
    assert set(UNTESTED_PAIRS) < set(supervised_pairs()) and len(UNTESTED_PAIRS) == 5
    assert supervised_pairs()[0] == "af-en" and supervised_pairs()[-1] == "en-zu"
