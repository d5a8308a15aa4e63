"""Certificates as files bring them."""

import pytest

from fleet.certificates import from_der, from_file, from_pem, is_der
from tests.fleet.pki import certificate, der, pem

FIRST, SECOND = certificate(), certificate(cn="second")


def test_pem_and_der():
    """One or more in PEM form, with text around them, or one in DER form."""
    both = b"\xef\xbb\xbfSubject: x\r\n" + pem(FIRST).replace(b"\n", b"\r\n") + b"text\n" + pem(SECOND)
    assert from_file(both) == from_pem(both) == [FIRST, SECOND]
    assert from_file(der(FIRST)) == [from_der(der(FIRST))] == [FIRST]
    assert (is_der(der(FIRST)), is_der(both), is_der(b"")) == (True, False, False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff" * 50,
        b"\x30\x03abc",
        der(FIRST)[:-1],
        pem(FIRST)[:-40],
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem(FIRST).decode().encode("utf-16"),
    ],
)
def test_what_is_no_certificate(data: bytes):
    """Is said to be none, and nothing else happens."""
    with pytest.raises(ValueError, match="."):
        from_file(data)


@pytest.mark.filterwarnings("ignore")
def test_serial_numbers_where_warnings_are_none():
    """The verdict is the same."""
    with pytest.raises(ValueError, match="its serial number is not positive"):
        from_der(der(certificate(serial=0x7F01)).replace(b"\x02\x02\x7f\x01", b"\x02\x02\xff\x01", 1))


def test_serial_numbers_that_are_not_positive():
    """OpenSSL takes them; RFC 5280, 4.1.2.2, does not, nor does the library read them for long."""
    made = der(certificate(serial=0x7F01))
    for serial in (b"\x02\x02\xff\x01", b"\x02\x02\x00\x00"):
        with pytest.raises(ValueError, match=r"positive|serial"):
            from_der(made.replace(b"\x02\x02\x7f\x01", serial, 1))
