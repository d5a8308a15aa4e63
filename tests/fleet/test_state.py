"""The state folder."""

import os

import pytest

from fleet.errors import StateError, StateInUseError
from fleet.files import write_private, write_public
from fleet.state import StateFolder, StateLock


def test_one_owner_at_a_time(tmp_path):
    """The second is told who the first is; afterwards the folder is free again."""
    state = StateFolder(tmp_path / "state")
    with StateLock(state), pytest.raises(StateInUseError, match=str(os.getpid())), StateLock(state):
        pass
    with StateLock(state):
        pass


def test_secrets_are_the_owners(tmp_path):
    """Folder 0700, token 0600 and not guessable; making it again changes nothing."""
    state = StateFolder(tmp_path / "state")
    state.make()
    token = state.token()
    state.make()
    assert state.token() == token
    assert len(token) >= 40
    assert state.path.stat().st_mode & 0o777 == 0o700
    assert state.token_file.stat().st_mode & 0o777 == 0o600


def test_a_killed_servers_file_is_not_believed(tmp_path):
    """Whoever owns the folder removes what the last owner left; damaged text is nothing."""
    state = StateFolder(tmp_path)
    state.server_file.write_text('{"pid": 1, "http": "127.0.0.1:1"}')
    assert state.server()["pid"] == 1
    with StateLock(state):
        assert state.server() == {}
    for damaged in ("{cut o", "[" * 5000, '{"pid": 1, "http": 5}', "[1]"):
        state.server_file.write_text(damaged)
        assert state.server() == {}


@pytest.mark.parametrize("damaged", [b"", b"\n", b"\xff\xfe", "ä".encode(), b"a\nb", b"a\0b"])
def test_a_token_that_is_none(tmp_path, damaged: bytes):
    """Nobody is let in by an empty one; it is named, with what to do."""
    state = StateFolder(tmp_path)
    state.token_file.write_bytes(damaged)
    with pytest.raises(StateError, match=r"admin\.token: no token in it: remove the file"):
        state.token()


def test_a_folder_that_cannot_be(tmp_path):
    """A clear error names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="file"):
        StateFolder(tmp_path / "file" / "state").make()
    with pytest.raises(StateError, match=r"admin\.token"):
        StateFolder(tmp_path).token()


@pytest.mark.parametrize("write", [write_private, write_public])
def test_a_pipe_is_written_to_and_not_replaced(tmp_path, write):
    """Where a file is to go may be a pipe or a device: it is still there afterwards, and has got all of it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(pipe, b"secret")
        assert os.read(reading, 100) == b"secret"
    finally:
        os.close(reading)
    assert pipe.is_fifo()
    write(tmp_path / "file", b"one")
    write(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"two"
