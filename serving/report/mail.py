"""Mails reports: to each recipient what the access file lets them see.

The mail's text is the first report's: what is new, and its charts as images, since mail
programs show no SVG. The pages are attached.
"""

import smtplib
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from html import escape
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from ingest.errors import WarehouseError, first_line
from ingest.settings import Settings
from serving.access import Scope, scope_of
from serving.reader import Follower
from serving.report import files
from serving.report.files import Written

TIMEOUT_SEC = 30
# What most mail servers take, in base64.
MOST_ATTACHED_BYTES = 8_000_000


@dataclass(frozen=True)
class Server:
    """Where mail is handed in. With `is_tls` the connection is encrypted from its
    start, else as soon as the server offers it; a password is never sent in clear."""

    host: str
    port: int
    is_tls: bool
    user: str | None = None
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str) -> Self:
        """`smtp://` or `smtps://`, maybe `user:password@`, a host, maybe a port.

        Raises `WarehouseError`, without the password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise WarehouseError(
                "LMS_REPORT_SMTP: give an address, smtp://user:password@host:587 or "
                "smtps://..."
            )
        is_tls = parts.scheme == "smtps"
        return cls(
            parts.hostname,
            port or (465 if is_tls else 587),
            is_tls,
            unquote(parts.username) if parts.username else None,
            unquote(parts.password or ""),
        )


def mail_reports(settings: Settings, since: date | None) -> int:
    """Mails the reports as `settings` say; how many mails went out.

    Who may see nothing gets none. Raises `WarehouseError`; those mailed so far have it.
    """
    server = Server.of(settings.report_smtp)
    if not settings.report_to:
        raise WarehouseError("LMS_REPORT_TO: name who gets the report, with commas")
    by_scope: dict[Scope, list[str]] = {}
    for address in settings.report_to:
        scope = scope_of(settings.dashboard_access, address)
        if scope.courses != ():
            by_scope.setdefault(scope, []).append(address)
    follower = Follower(settings.published_snapshot, now=settings.now or None)
    for scope, addresses in by_scope.items():
        with tempfile.TemporaryDirectory(prefix="report-") as folder:
            with follower.reader(scope) as reader:
                written = files.write_all(reader, Path(folder), since=since)
            if written:
                _send(server, [_mail(written, settings, to) for to in addresses])
    return sum(map(len, by_scope.values()))


def _mail(written: Sequence[Written], settings: Settings, to: str) -> EmailMessage:
    first = written[0]
    mail = EmailMessage()
    mail["Subject"] = f"Learning report since {first.report.since}"
    mail["From"], mail["To"] = settings.report_from, to
    mail["Date"], mail["Message-ID"] = formatdate(), make_msgid()
    text, html = [], []
    images = []
    for section in first.report.sections:
        if not (section.sentences or section.charts):
            continue
        text += [section.title, *section.sentences]
        html.append(f"<h2>{escape(section.title)}</h2>")
        html += [f"<p>{escape(sentence)}</p>" for sentence in section.sentences]
        for name, chart in section.charts:
            content_id = make_msgid()
            images.append((content_id, first.images[name]))
            text.append(chart.words)
            words = escape(chart.words)
            html.append(
                f'<p><img src="cid:{content_id[1:-1]}" alt="{words}" width="640"><br>'
                f"{words}</p>"
            )
        text.append("")
    attached, left_out = _attached(written)
    if left_out:
        said = f"Too large to attach: {', '.join(path.name for path in left_out)}."
        text.append(said)
        html.append(f"<p>{escape(said)}</p>")
    title = f"{first.report.title}, since {first.report.since}"
    mail.set_content("\n".join([title, "", *text]) + "\n")
    mail.add_alternative(
        f"<html><body><h1>{escape(title)}</h1>{''.join(html)}</body></html>",
        subtype="html",
    )
    body = mail.get_body(("html",))
    assert isinstance(body, EmailMessage)
    for content_id, path in images:
        body.add_related(path.read_bytes(), "image", "png", cid=content_id)
    for path in attached:
        mail.add_attachment(
            path.read_bytes(), maintype="text", subtype="html", filename=path.name
        )
    return mail


def _attached(written: Sequence[Written]) -> tuple[list[Path], list[Path]]:
    """The pages that a mail has room for, and the others."""
    attached: list[Path] = []
    left_out: list[Path] = []
    size = 0
    for page in (each.page for each in written):
        size += page.stat().st_size
        (attached if size <= MOST_ATTACHED_BYTES else left_out).append(page)
    return attached, left_out


def _send(server: Server, mails: Sequence[EmailMessage]) -> None:
    kind = smtplib.SMTP_SSL if server.is_tls else smtplib.SMTP
    try:
        with kind(server.host, server.port, timeout=TIMEOUT_SEC) as connection:
            connection.ehlo()
            if not server.is_tls and connection.has_extn("starttls"):
                connection.starttls(context=ssl.create_default_context())
                connection.ehlo()
            elif not server.is_tls and server.user:
                raise WarehouseError(
                    f"{server.host}:{server.port}: offers no encryption, so the "
                    "password was not sent; give an smtps:// address in LMS_REPORT_SMTP"
                )
            if server.user:
                connection.login(server.user, server.password)
            for mail in mails:
                connection.send_message(mail)
    except (smtplib.SMTPException, OSError) as error:
        raise WarehouseError(
            f"{server.host}:{server.port}: the report was not mailed "
            f"({first_line(error)}); check LMS_REPORT_SMTP and LMS_REPORT_TO"
        ) from error
