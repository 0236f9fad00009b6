import errno
import os
import socket

import pytest

from dreamtune.storage import check_regular, open_regular, read_regular


@pytest.mark.parametrize(
    "read", [lambda path: open_regular(path).close(), check_regular, lambda path: read_regular(path, 9)]
)
def test_only_files_that_have_an_end_are_read(tmp_path, read):
    (tmp_path / "file").write_bytes(b"123456789")
    (tmp_path / "link").symlink_to("file")
    read(tmp_path / "file")
    read(tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    with pytest.raises(IsADirectoryError, match="directory"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "linked-pipe").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "linked-pipe", "/dev/zero", "/dev/null"):
        with pytest.raises(OSError) as raised:
            read(path)
        assert raised.value.strerror == "not a regular file"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError):
            read(tmp_path / "socket")


def test_what_is_opened_is_read_as_ever(tmp_path):
    (tmp_path / "file").write_bytes(b"1\r\n2\x1a3")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"1\r\n2\x1a3"


def test_a_file_over_its_limit_is_not_read_to_its_end(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 1 MiB") as raised:
        read_regular(tmp_path / "sparse", 1 << 20)
    assert raised.value.errno == errno.EFBIG
