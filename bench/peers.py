"""evenkeel and its peers: the same work asked of each, one worker each, no access log.

A mode is what a proxy is asked to do:

* `http`    HTTP/1.1 to HTTP/1.1, connections to endpoints kept and shared; WebSocket upgrades let through
* `http2`   HTTP/2 without TLS on both sides
* `tcp`     bytes, nothing looked at
* `tls`     the clients' TLS ended, else `http`
* `tls-tcp` the clients' TLS ended, else `tcp`
"""

import json
import os
import pathlib
import re
import shutil
import subprocess

from machine import PROXY_CPU, LOAD_CPU, ROOT, VENV, LOAD, Process, free_ports, listening

EVENKEEL = ROOT / "target/release/evenkeel"
# What a Pod answers: 98 bytes, as a small JSON answer would have.
BODY = "hello from a pod: this is a small fixed body used to measure the proxies in front of it. 0123456789"[:98]
CONNECTIONS = 9_600
# On one connection of HTTP/2 to an endpoint.
STREAMS = 1_000


def nginx_module(name):
    for directory in ("/usr/lib/nginx/modules", "/usr/share/nginx/modules"):
        module = pathlib.Path(directory) / name
        if module.exists():
            return f"load_module {module};\n"
    return ""


def envoy_binary():
    found = sorted(VENV.parent.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return found[0] if found else None


class World:
    """The processes of one bench: endpoints, and proxies in front of them."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.started = []
        self.homes = 0

    def start(self, command, cpu, port):
        """Starts a program that listens there."""
        process = Process(command, cpu, self.home("log") / "log")
        process.port = port
        self.started.append(process)
        if not listening(port):
            raise RuntimeError(f"{command[0]} does not listen on port {port}: {process.complaint()}")
        return process

    def home(self, name):
        """A new directory."""
        self.homes += 1
        home = self.directory / f"{self.homes}-{name}"
        home.mkdir()
        return home

    def stop(self, process):
        self.started.remove(process)
        process.stop()

    def stop_all(self):
        for process in reversed(self.started):
            process.stop()
        self.started.clear()

    # ---- endpoints

    def endpoints(self, count=3, each=1):
        """nginx servers, `each` addresses for each of them: `/` is 98 bytes, `/1m` is 1 MiB."""
        www = self.home("www")
        (www / "1m").write_bytes(os.urandom(1 << 20))
        addresses = []
        for i in range(count):
            (port,) = free_ports(1)
            mine = [f"127.0.0.1:{port}"] if each == 1 else [
                f"127.{10 + i}.{n // 250}.{n % 250 + 1}:{port}" for n in range(each)]
            addresses += mine
            listen = "".join(f"listen {address} backlog=4096; " for address in mine)
            if each > 1:
                listen += f"listen 127.0.0.1:{port}; "
            self.nginx(LOAD_CPU, port, f"""http {{
  access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 3600s; open_file_cache max=10;
  server {{ {listen}
    location / {{ default_type text/plain; return 200 "{BODY}"; }}
    location /1m {{ root {www}; }} }}
}}""")
        return addresses

    def echo(self):
        """A server that echoes WebSocket messages, and bytes."""
        (port,) = free_ports(1)
        self.start([LOAD, "serve", f"127.0.0.1:{port}"], LOAD_CPU, port)
        return [f"127.0.0.1:{port}"]

    def nghttpd(self, index, *options):
        """Three nghttpd: `/`, `/1k` and `/64k` over HTTP/2 without TLS."""
        www = self.home("www")
        for name, content in [("index.html", index), ("1k", os.urandom(1024)), ("64k", os.urandom(64 * 1024))]:
            (www / name).write_bytes(content)
        ports = free_ports(3)
        for port in ports:
            self.start(["nghttpd", "--no-tls", "-a", "127.0.0.1", "-n", "1", "-m", STREAMS, "-d", www, *options, port],
                       LOAD_CPU, port)
        return [f"127.0.0.1:{port}" for port in ports]

    def files(self):
        """Servers of HTTP/2: `/` is 98 bytes."""
        return self.nghttpd(BODY.encode())

    def calls(self):
        """Servers that answer every call of gRPC with 64 bytes."""
        return self.nghttpd(bytes(64), "--trailer=grpc-status: 0")

    def streams(self):
        """Three servers that echo the messages of streams."""
        ports = free_ports(3)
        for port in ports:
            self.start([LOAD, "serve-http2", f"127.0.0.1:{port}"], LOAD_CPU, port)
        return [f"127.0.0.1:{port}" for port in ports]

    # ---- proxies

    def nginx(self, cpu, port, body):
        home = self.home("nginx")
        paths = " ".join(f"{kind}_temp_path {home}/{kind};" for kind in
                         ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = home / "nginx.conf"
        config.write_text(
            f"{nginx_module('ngx_stream_module.so')}daemon off; master_process off; worker_processes 1;\n"
            f"worker_rlimit_nofile 20000; pid {home}/pid; error_log {home}/error.log;\n"
            "events { worker_connections 19900; }\n" + body.replace("http {", "http { " + paths, 1)
        )
        return self.start(["nginx", "-p", home, "-c", config], cpu, port)

    def proxy(self, peer, mode, backends, certificate=None):
        """Starts a proxy; the process knows its port."""
        (port,) = free_ports(1)
        process = PEERS[peer](self, mode, port, backends, certificate)
        process.peer = peer
        return process


def evenkeel(world, mode, port, backends, certificate):
    (admin,) = free_ports(1)
    home = world.home("evenkeel")
    tls = f"    tls: {{ cert: {certificate[0]}, key: {certificate[1]} }}\n" if mode.startswith("tls") else ""
    protocol = {"tcp": "tcp", "tls-tcp": "tcp", "http2": "http2"}.get(mode, "http")
    (home / "endpoints.yaml").write_text("".join(f"- {address}\n" for address in backends))
    (home / "evenkeel.yaml").write_text(
        f"admin: 127.0.0.1:{admin}\nworkers: 1\nservices:\n"
        f"  - name: bench\n    listen: 127.0.0.1:{port}\n    target: file://{home}/endpoints.yaml\n"
        f"    protocol: {protocol}\n{tls}"
    )
    process = world.start([EVENKEEL, "proxy", "-c", home / "evenkeel.yaml"], PROXY_CPU, port)
    process.admin, process.home = admin, home
    return process


def evenkeel_random(world, mode, port, backends, certificate):
    """Each connection stays with one endpoint, as with a Service."""
    (admin,) = free_ports(1)
    return world.start(
        [EVENKEEL, "proxy", "--workers", "1", "--admin", f"127.0.0.1:{admin}", "--policy", "random",
         "--protocol", "http", "--listen", f"127.0.0.1:{port}", "--to", ",".join(backends)], PROXY_CPU, port)


def nginx_tls(mode, certificate):
    """What ends TLS in nginx, and what `listen` says of it."""
    if not mode.startswith("tls"):
        return "", ""
    return f"ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};", " ssl"


def nginx_stream(world, mode, port, backends, certificate):
    servers = " ".join(f"server {b};" for b in backends)
    tls, ssl = nginx_tls(mode, certificate)
    return world.nginx(PROXY_CPU, port, f"""stream {{
  upstream b {{ {servers} }}
  server {{ listen 127.0.0.1:{port}{ssl} backlog=4096; {tls} proxy_pass b; proxy_timeout 1h; }}
}}""")


def nginx(world, mode, port, backends, certificate):
    servers = " ".join(f"server {b};" for b in backends)
    tls, ssl = nginx_tls(mode, certificate)
    if mode == "http2":
        return world.nginx(PROXY_CPU, port, f"""http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
  upstream b {{ {servers} keepalive 2000; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} http2 backlog=4096; location / {{ grpc_pass grpc://b; }} }}
}}""")
    return world.nginx(PROXY_CPU, port, f"""http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
  proxy_read_timeout 1h; proxy_send_timeout 1h; proxy_max_temp_file_size 0;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream b {{ {servers} keepalive 2000; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port}{ssl} backlog=4096; {tls}
    location / {{ proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; }} }}
}}""")


def haproxy(world, mode, port, backends, certificate, extra=""):
    home = world.home("haproxy")
    ssl, proto = "", ""
    if mode == "http2":
        proto = " proto h2"
    if mode.startswith("tls"):
        pem = home / "certificate.pem"
        pem.write_text(pathlib.Path(certificate[0]).read_text() + pathlib.Path(certificate[1]).read_text())
        ssl = f" ssl crt {pem}"
    kind = "tcp" if mode.endswith("tcp") else "http"
    reuse = "" if kind == "tcp" else "  http-reuse always\n"
    servers = "\n".join(f"  server s{i} {b}{proto}" for i, b in enumerate(backends))
    (home / "haproxy.cfg").write_text(
        f"global\n  maxconn {CONNECTIONS}\n  nbthread 1\n  maxpipes 150\n"
        f"  tune.h2.max-concurrent-streams {STREAMS}\n"
        f"defaults\n  mode {kind}\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
        "  timeout tunnel 1h\n  timeout http-keep-alive 1h\n"
        f"frontend f\n  bind 127.0.0.1:{port} backlog 4096{proto}{ssl}\n  default_backend b\n"
        f"backend b\n  balance roundrobin\n{reuse}{extra}{servers}\n"
    )
    return world.start(["haproxy", "-db", "-f", home / "haproxy.cfg"], PROXY_CPU, port)


def haproxy_splice(world, mode, port, backends, certificate):
    return haproxy(world, mode, port, backends, certificate, "  option splice-request\n  option splice-response\n")


def nghttpx(world, mode, port, backends, certificate):
    command = ["nghttpx", "--conf=/dev/null", "--single-process", "--workers=1", "--backlog=4096",
               "--worker-frontend-connections=0", "--log-level=ERROR", "--no-via", "--no-add-x-forwarded-proto",
               "--frontend-read-timeout=3600", "--frontend-http2-read-timeout=3600", "--frontend-keep-alive-timeout=3600", "--backend-read-timeout=3600",
               f"-f127.0.0.1,{port};no-tls"]
    proto = "h2" if mode == "http2" else "http/1.1"
    command += [f"--backend-http2-max-concurrent-streams={STREAMS}", "--frontend-http2-max-concurrent-streams=128"]
    command += [f"-b{b.replace(':', ',')};;proto={proto}" for b in backends]
    return world.start(command, PROXY_CPU, port)


def envoy(world, mode, port, backends, certificate):
    typed = "type.googleapis.com/envoy.extensions."
    if mode.endswith("tcp"):
        network = {"name": "tcp", "typed_config": {
            "@type": typed + "filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "bench", "cluster": "b", "idle_timeout": "0s"}}
    else:
        route = {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "b", "timeout": "0s"}}]}]}
        router = {"name": "router", "typed_config": {
            "@type": typed + "filters.http.router.v3.Router",
            "suppress_envoy_headers": True, "dynamic_stats": False}}
        network = {"name": "http", "typed_config": {
            "@type": typed + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "bench", "codec_type": "HTTP2" if mode == "http2" else "HTTP1", "generate_request_id": False,
            "stream_idle_timeout": "0s", "upgrade_configs": [{"upgrade_type": "websocket"}],
            "route_config": route, "http_filters": [router]}}
    chain = {"filters": [network]}
    if mode.startswith("tls"):
        files = {"certificate_chain": {"filename": str(certificate[0])},
                 "private_key": {"filename": str(certificate[1])}}
        chain["transport_socket"] = {"name": "tls", "typed_config": {
            "@type": typed + "transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [files]}}}

    def address(text):
        host, number = text.rsplit(":", 1)
        return {"socket_address": {"address": host, "port_value": int(number)}}

    most = 30_000
    upstream = {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": typed + "upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": STREAMS}}}}}
    config = {"static_resources": {
        "listeners": [{"name": "l", "address": address(f"127.0.0.1:{port}"), "filter_chains": [chain],
                       "ignore_global_conn_limit": True, "tcp_backlog_size": 4096}],
        "clusters": [{"name": "b", "type": "STATIC", "lb_policy": "ROUND_ROBIN",
                      **(upstream if mode == "http2" else {}),
                      "circuit_breakers": {"thresholds": [{"max_connections": most, "max_pending_requests": most,
                                                           "max_requests": most}]},
                      "load_assignment": {"cluster_name": "b", "endpoints": [
                          {"lb_endpoints": [{"endpoint": {"address": address(b)}} for b in backends]}]}}]}}
    home = world.home("envoy")
    (home / "envoy.json").write_text(json.dumps(config))
    return world.start([envoy_binary(), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error",
                        "-c", home / "envoy.json"], PROXY_CPU, port)


PEERS = {
    "evenkeel": evenkeel,
    "evenkeel, random": evenkeel_random,
    "nginx stream": nginx_stream,
    "nginx": nginx,
    "haproxy": haproxy,
    "haproxy, splice": haproxy_splice,
    "nghttpx": nghttpx,
    "envoy": envoy,
}


def versions():
    """What is measured, by program; `None`: it is not there."""
    def said(command, pattern):
        if not command[0] or not shutil.which(str(command[0])):
            return None
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        found = re.search(pattern, done.stdout + done.stderr)
        return found.group(1) if found else "?"
    return {
        "evenkeel": said([EVENKEEL, "--version"], r"(\d\S*)"),
        "nginx": said(["nginx", "-v"], r"nginx/(\S+)"),
        "haproxy": said(["haproxy", "-v"], r"version (\d[\d.]*)"),
        "nghttpx": said(["nghttpx", "--version"], r"nghttp2/(\S+)"),
        "envoy": said([envoy_binary(), "--version"], r"/(\d[\d.]*)/"),
        "wrk": said(["wrk", "-v"], r"wrk (?:debian/)?(\d\S*)"),
        "h2load": said(["h2load", "--version"], r"nghttp2/(\S+)"),
    }


def certificate(directory):
    """One that signs itself, for `localhost`."""
    cert, key = pathlib.Path(directory) / "cert.pem", pathlib.Path(directory) / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    return cert, key
