"""Mails on the wire: made so that nothing in them can add a header, and handed to the mail server of the settings."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import formatdate, make_msgid, parseaddr

from voxelworks.errors import InvalidInput, ServerUnreachable
from voxelworks.notify._messages import TestMessage
from voxelworks.notify._render import Rendered, render_mail
from voxelworks.notify._words import check_mail_address, one_line
from voxelworks.settings import Settings

TIMEOUT_S = 30.0
_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Policy(EmailPolicy):
    """Writes subjects of other letters as a whole in encoded words.

    The library encodes word by word, and in some versions loses spaces in between.
    """

    def fold(self, name: str, value: str) -> str:
        if name.lower() != "subject" or value.isascii():
            plain: str = super().fold(name, value)
            return plain
        encoded = Header(str(value), "utf-8", header_name=name).encode(linesep=self.linesep)
        return f"{name}: {encoded}{self.linesep}"

    def fold_binary(self, name: str, value: str) -> bytes:
        if name.lower() != "subject" or value.isascii():
            return super().fold_binary(name, value)
        return self.fold(name, value).encode("ascii")


POLICY = _Policy(linesep="\r\n")


class MailRefused(Exception):
    """The mail server does not take this one mail.

    Parameters
    ----------
    is_final
        Trying again would change nothing.
    """

    def __init__(self, reason: str, *, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


def check_mail_settings(settings: Settings) -> None:
    """Check what can be checked without talking to the mail server.

    Raises
    ------
    InvalidInput
        Naming the setting and what to do.
    """
    for name in ("operator_email", "support_email"):
        if (address := getattr(settings, name)) is not None:
            _check_setting(name, address)
    if settings.mail_from is not None:
        sender_of(settings)
    if settings.smtp_host is None:
        return
    if settings.mail_from is None:
        raise InvalidInput(
            "smtp_host is set, but not who sends: set VOXELWORKS_MAIL_FROM, such as 'Voxelworks <mail@example.org>'"
        )
    if (settings.smtp_user is None) != (settings.smtp_password is None):
        raise InvalidInput("set both VOXELWORKS_SMTP_USER and VOXELWORKS_SMTP_PASSWORD, or none of them")
    login = f"{settings.smtp_user or ''}{_password(settings) or ''}"
    if not login.isascii():
        raise InvalidInput(
            "the user name or the password of the mail server has letters that log-ins of mail cannot carry; "
            "choose a password of ASCII characters there"
        )
    is_plain = settings.smtp_security == "none" and settings.smtp_host not in _LOOPBACK
    if settings.smtp_password is not None and is_plain:
        raise InvalidInput(
            "the password of the mail server would be sent for everybody to read; set VOXELWORKS_SMTP_SECURITY "
            "to starttls or tls"
        )


def sender_of(settings: Settings) -> Address:
    """Read who sends the mails."""
    text = settings.mail_from or ""
    name, address = parseaddr(text)
    _check_setting("mail_from", address or text)
    return _address(address, one_line(name))


def make_mail(
    rendered: Rendered,
    *,
    sender: Address,
    to: str,
    message_id: str,
    reply_to: str | None = None,
) -> EmailMessage:
    """Put a mail together: text and HTML, no header of which can hold a line break.

    Raises
    ------
    MailRefused
        If an address is none.
    """
    mail = EmailMessage(policy=POLICY)
    # A text could look like an encoded word, which the library would decode.
    mail["Subject"] = one_line(rendered.subject).replace("=?", "= ?")
    mail["From"] = sender
    mail["To"] = _recipient(to)
    if reply_to is not None:
        mail["Reply-To"] = _recipient(reply_to)
    mail["Date"] = formatdate(usegmt=True)
    mail["Message-ID"] = message_id
    # Absence notes and tickets must not answer to machines (RFC 3834).
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "All"
    if rendered.unsubscribe_link is not None:
        mail["List-Unsubscribe"] = f"<{rendered.unsubscribe_link}>"
        if rendered.unsubscribe_link.startswith("https://"):  # RFC 8058 knows one click only there
            mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    # Encoded, so that every server on the way can carry it.
    mail.set_content(rendered.text, cte="quoted-printable")
    mail.add_alternative(rendered.html, subtype="html", cte="quoted-printable")
    return mail


def new_message_id(settings: Settings) -> str:
    return make_msgid(domain=sender_of(settings).domain)


class MailServer:
    """A connection to the mail server, made when the first mail goes and used for the next ones."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: smtplib.SMTP | None = None

    def send(self, mail: EmailMessage, to: str) -> None:
        """Hand over a mail.

        Raises
        ------
        MailRefused
            If the server does not take this mail, but may take others.
        ServerUnreachable
            If it takes none at the moment: it does not answer, or does not let us in.
        """
        with _understood(f"{self._settings.smtp_host}"):
            try:
                if self._connection is None:
                    self._connection = _connect(self._settings)
                self._connection.send_message(mail, sender_of(self._settings).addr_spec, [to])
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.quit()
            except (OSError, smtplib.SMTPException):
                connection.close()


def send_test_mail(settings: Settings, to: str) -> str:
    """Send a mail at once, past the outbox, and say how it went.

    Raises
    ------
    InvalidInput
        If the settings name no mail server, or contradict each other.
    ServerUnreachable
        If the mail server does not take it.
    """
    check_mail_address(to)
    check_mail_settings(settings)
    if settings.smtp_host is None:
        raise InvalidInput("no mail server is set; set VOXELWORKS_SMTP_HOST and VOXELWORKS_MAIL_FROM")
    rendered = render_mail(TestMessage(), "test", settings.link_base)
    mail = make_mail(rendered, sender=sender_of(settings), to=to, message_id=new_message_id(settings))
    server = MailServer(settings)
    try:
        server.send(mail, to)
    except MailRefused as error:
        raise ServerUnreachable(f"{settings.smtp_host} does not take the mail ({error})") from error
    finally:
        server.close()
    way = {"starttls": "encrypted by STARTTLS", "tls": "encrypted by TLS", "none": "not encrypted"}
    as_whom = f", logged in as {settings.smtp_user}" if settings.smtp_user else ""
    return (
        f"{settings.smtp_host}:{_port(settings)} took a mail to {to} ({way[settings.smtp_security]}{as_whom}); "
        "see that it arrived, also among the spam"
    )


@contextmanager
def _understood(host: str) -> Iterator[None]:
    """Tell a server that does not take one mail from a server that takes none."""
    try:
        yield
    except smtplib.SMTPRecipientsRefused as error:
        code, reason = next(iter(error.recipients.values()))
        raise _refused(code, reason) from error
    except smtplib.SMTPDataError as error:
        raise _refused(error.smtp_code, error.smtp_error) from error
    except smtplib.SMTPNotSupportedError as error:
        if "SMTPUTF8" in str(error):
            raise MailRefused(f"{host} takes no addresses with such letters", is_final=True) from error
        raise ServerUnreachable(f"{host} cannot do what the settings ask for ({error})") from error
    except smtplib.SMTPResponseException as error:
        words = _words(error.smtp_code, error.smtp_error)
        raise ServerUnreachable(f"the mail server {host} does not let us in ({words})") from error
    except (OSError, smtplib.SMTPException) as error:
        words = one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise ServerUnreachable(f"the mail server {host} does not answer ({words})") from error


def _connect(settings: Settings) -> smtplib.SMTP:
    assert settings.smtp_host is not None
    host, port = settings.smtp_host, _port(settings)
    name = sender_of(settings).domain
    if settings.smtp_security == "tls":
        context = ssl.create_default_context()
        connection: smtplib.SMTP = smtplib.SMTP_SSL(host, port, name, timeout=TIMEOUT_S, context=context)
    else:
        connection = smtplib.SMTP(host, port, name, timeout=TIMEOUT_S)
    try:
        if settings.smtp_security == "starttls":
            connection.starttls(context=ssl.create_default_context())
        password = _password(settings)
        if settings.smtp_user is not None and password is not None:
            connection.login(settings.smtp_user, password)
    except BaseException:
        connection.close()
        raise
    return connection


def _port(settings: Settings) -> int:
    return settings.smtp_port or _PORTS[settings.smtp_security]


def _password(settings: Settings) -> str | None:
    return None if settings.smtp_password is None else settings.smtp_password.get_secret_value()


def _refused(code: int, reason: bytes | str) -> MailRefused:
    return MailRefused(_words(code, reason), is_final=500 <= code < 600)


def _words(code: int, reason: bytes | str) -> str:
    text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
    return one_line(f"{code} {text}", 300)


def _recipient(text: str) -> Address:
    try:
        return _address(check_mail_address(text))
    except (InvalidInput, ValueError) as error:
        raise MailRefused(str(error), is_final=True) from error


def _address(text: str, name: str = "") -> Address:
    user, _, domain = text.rpartition("@")
    return Address(name, user, domain)


def _check_setting(name: str, address: str) -> None:
    try:
        check_mail_address(address)
    except InvalidInput as error:
        raise InvalidInput(f"setting {name} (VOXELWORKS_{name.upper()}): {error}") from error
