"""A small OpenID Connect provider with real RSA keys, which can be told to misbehave."""

import base64
import hashlib
import json
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID = "voxelworks"
CLIENT_SECRET = "secret of the client: %&+ä"
KEY = RSAKey.generate_key(2048, {"use": "sig", "kid": "first"}, private=True)
OTHER_KEY = RSAKey.generate_key(2048, {"use": "sig", "kid": "second"}, private=True)


class Provider:
    """What a test sees of the provider."""

    def __init__(self, address):
        self.issuer = address
        self.person = {"sub": "4711", "email": "ada@example.org", "email_verified": True, "name": "Ada"}
        self.keys = [KEY]
        self.signing_key = KEY
        self.change_claims = lambda claims: claims
        self.sign = lambda claims: jwt.encode(
            {"alg": "RS256", "kid": self.signing_key.kid}, claims, self.signing_key, algorithms=["RS256"]
        )
        self.discovery = {
            "issuer": address,
            "authorization_endpoint": f"{address}/authorize",
            "token_endpoint": f"{address}/token",
            "jwks_uri": f"{address}/keys",
            "userinfo_endpoint": f"{address}/userinfo",
        }
        self.answers = {}
        """Path -> (status, body) in place of what is right."""
        self.client_secret = CLIENT_SECRET
        self.is_basic = True
        self.asked = []
        self.codes = {}
        self.userinfo = {}

    def visit(self, address, *, consents=True):
        """Do what the person's browser does there; give the query with which it comes back."""
        assert address.startswith(f"{self.issuer}/authorize?")
        asked = {key: values[0] for key, values in parse_qs(urlsplit(address).query).items()}
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        assert {"openid", "email", "profile"} == set(asked["scope"].split())
        if not consents:
            return {"error": "access_denied", "state": asked["state"]}
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def give_tokens(self, form, authorization):
        asked = self.codes.pop(form.get("code"), None)  # a code is good for once
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
        is_right = (
            asked is not None
            and form["grant_type"] == "authorization_code"
            and asked["code_challenge"] == challenge.decode().rstrip("=")
            and asked["redirect_uri"] == form["redirect_uri"]
            and self._is_client(form, authorization)
        )
        if not is_right:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"], **self.person,
        }  # fmt: skip
        statement = self.sign(self.change_claims(claims))
        return 200, {"access_token": "access", "token_type": "Bearer", "id_token": statement}

    def _is_client(self, form, authorization):
        if self.client_secret is None:
            return authorization is None and form.get("client_id") == CLIENT_ID
        if not self.is_basic:
            return (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, self.client_secret)
        kind, _, pair = (authorization or "").partition(" ")
        name, _, secret = base64.b64decode(pair).decode().partition(":")
        return (kind, unquote(name), unquote(secret)) == ("Basic", CLIENT_ID, self.client_secret)


@contextmanager
def running_provider():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer(
                {
                    "/.well-known/openid-configuration": lambda: (200, provider.discovery),
                    "/keys": lambda: (200, {"keys": [key.as_dict(private=False) for key in provider.keys]}),
                    "/userinfo": lambda: (200, provider.userinfo),
                }
            )

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = dict(parse_qsl(body))
            self._answer({"/token": lambda: provider.give_tokens(form, self.headers.get("Authorization"))})

        def _answer(self, routes):
            provider.asked.append(self.path)
            status, body = provider.answers.get(self.path) or routes[self.path]()
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{provider.issuer}/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            # The client may have read enough.
            with suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = Provider(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
